//! Containers of sessions (section 8): [`previews`] registers their ports, [`proxies`] shows them.

pub(super) mod previews;
pub(super) mod proxies;
