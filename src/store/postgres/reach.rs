//! Whether anybody takes connections where the database should be. The pool tries a refused connection again until its
//! time is up; whoever waits for it need not.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

/// How long a caller waits for the pool before anybody looks. Also the least time between two looks, whoever asks.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// Longest wait for one look; whoever refuses does so at once.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// Where the database listens.
#[derive(Debug)]
enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// Looks at the database's door, at the most once in half a second for everybody. Clones share their looks.
#[derive(Debug, Clone)]
pub(super) struct Reach(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    place: Place,
    /// When the last look was, and whether the connection was refused.
    last: Mutex<Option<(Instant, bool)>>,
}

impl Reach {
    /// Of the server that these options name.
    pub(super) fn of(options: &PgConnectOptions) -> Self {
        let (host, port) = (options.get_host(), options.get_port());
        let folder = options.get_socket().cloned().or_else(|| host.starts_with('/').then(|| PathBuf::from(host)));
        let place = match folder {
            Some(folder) => Place::Unix(folder.join(format!(".s.PGSQL.{port}"))),
            None => Place::Tcp(host.to_owned(), port),
        };
        Self(Arc::new(Shared { place, last: Mutex::new(None) }))
    }

    /// Ends once a connection is refused; never where somebody takes connections, however long they take then.
    pub(super) async fn is_refused(&self) {
        loop {
            sleep(LOOK_AFTER).await;
            if self.look().await {
                return;
            }
        }
    }

    /// The last look where it is fresh, else another one; only one at a time.
    async fn look(&self) -> bool {
        let mut last = self.0.last.lock().await;
        if let Some((at, refused)) = *last
            && at.elapsed() < LOOK_AFTER
        {
            return refused;
        }
        let refused = self.0.place.refuses().await;
        *last = Some((Instant::now(), refused));
        refused
    }
}

impl Place {
    /// Whether nobody listens there. What takes long, or fails in another way, is the pool's to tell.
    async fn refuses(&self) -> bool {
        let knocked = match self {
            Self::Tcp(host, port) => {
                timeout(LOOK_WITHIN, TcpStream::connect((host.as_str(), *port))).await.map(|stream| stream.map(drop))
            }
            Self::Unix(path) => timeout(LOOK_WITHIN, UnixStream::connect(path)).await.map(|stream| stream.map(drop)),
        };
        matches!(knocked, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    fn reach(url: &str) -> Reach {
        Reach::of(&PgConnectOptions::from_str(url).unwrap())
    }

    #[tokio::test]
    async fn a_closed_port_is_told_apart_from_one_that_only_does_not_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://u@{}/db", listener.local_addr().unwrap());
        // Nobody accepts here: the system takes the connections.
        let open = reach(&url);
        assert!(timeout(LOOK_AFTER * 3, open.is_refused()).await.is_err());
        drop(listener);
        timeout(Duration::from_secs(20), open.is_refused()).await.expect("it notices");
        assert!(timeout(LOOK_AFTER * 3, reach("postgres://u@name.invalid/db").is_refused()).await.is_err());
    }

    #[tokio::test]
    async fn a_socket_nobody_listens_on_refuses_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".s.PGSQL.5432");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let url = format!("postgres://u@localhost/db?host={}", folder.path().display());
        let reach = reach(&url);
        assert!(!reach.look().await);
        drop(listener);
        timeout(Duration::from_secs(20), reach.is_refused()).await.expect("it notices");
    }

    #[tokio::test]
    async fn many_who_wait_knock_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reach = reach(&format!("postgres://u@{}/db", listener.local_addr().unwrap()));
        let looks = futures_util::future::join_all((0..50).map(|_| reach.look())).await;
        assert!(looks.iter().all(|refused| !refused));
        listener.accept().await.unwrap();
        let more = timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(more.is_err(), "a second knock within half a second");
    }
}
