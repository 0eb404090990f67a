//! Routes, one file for each resource. Which route needs which credential stands in `routes`.

mod auth;
mod body;
mod chats;
mod containers;
mod daemon_events;
mod daemon_stream;
mod error;
mod error_page;
mod events;
mod flags;
mod framing;
mod health;
mod openapi;
mod previews;
mod quarantine;
mod reader_json;
mod routes;
mod runs;
mod socket;
mod state;

pub use error::{ApiError, status_of};
use error_page::STYLE as ERROR_PAGE_STYLE;
pub use error_page::answer as answer_for_people;
pub use framing::{end_in_order, watch_connection};
pub use routes::configure;
pub use state::AppState;
