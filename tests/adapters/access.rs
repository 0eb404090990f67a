//! Access sources: the ones that are asked over HTTP against a stand-in, the others as they are.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use runwarden::access::{GitHubAccess, HostAccess, ListAccess, OwnerAccess, open_access};
use runwarden::config::AccessConfig;
use runwarden_actors::contract::{RepoFullName, UserId};
use runwarden_actors::ports::{AccessQuestion, AccessSourceError, RepoAccess};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const SECRET: &str = "s3cret-token";

async fn ask(source: &dyn RepoAccess, user: &str, repo: &str) -> Result<bool, AccessSourceError> {
    let (user, repo) = (UserId::parse(user).unwrap(), RepoFullName::parse(repo).unwrap());
    let owner = UserId::parse("owner").unwrap();
    source.may_see(AccessQuestion { user_id: &user, repo_full_name: &repo, owner: &owner }).await
}

/// Answers every request with these bytes, and keeps the heads of what came.
struct StandIn {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, kept) = (answer.clone(), Arc::clone(&kept));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    kept.lock().unwrap().push(String::from_utf8(head).unwrap());
                    let _ = stream.write_all(&answer).await;
                    if answer.is_empty() {
                        // Says nothing, and does not hang up either.
                        tokio::time::sleep(Duration::from_mins(1)).await;
                    }
                });
            }
        });
        Self { url, heads }
    }

    async fn saying(status: u16, body: &str) -> Self {
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        Self::answering(head + body).await
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn github(&self) -> GitHubAccess {
        GitHubAccess::new(&self.url, &SecretString::from(SECRET)).unwrap()
    }

    fn host(&self) -> HostAccess {
        HostAccess::new(&format!("{}/may-see?tenant=7", self.url), &SecretString::from(SECRET)).unwrap()
    }
}

#[tokio::test]
async fn the_owner_may_see_and_nobody_else() {
    assert_eq!(ask(&OwnerAccess, "owner", "acme/web").await, Ok(true));
    assert_eq!(ask(&OwnerAccess, "Owner", "acme/web").await, Ok(false));
}

#[tokio::test]
async fn a_list_names_pairs_and_stars() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("people.txt");
    let list = |text: &str| {
        std::fs::write(&file, text).unwrap();
        ListAccess::read(&file)
    };
    let read = list("# who\n\nann acme/web\n  a person with spaces\tacme/api \nroot *\n* acme/open\n").unwrap();
    for (user, repo, allowed) in [
        ("ann", "acme/web", true),
        ("ann", "acme/api", false),
        ("a person with spaces", "acme/api", true),
        ("root", "any/thing", true),
        ("anybody", "acme/open", true),
        ("anybody", "acme/web", false),
        ("owner", "acme/web", false),
    ] {
        assert_eq!(ask(&read, user, repo).await, Ok(allowed), "{user} {repo}");
    }
    assert_eq!(ask(&list("* *\n").unwrap(), "anybody", "any/thing").await, Ok(true));
    assert_eq!(ask(&list("").unwrap(), "owner", "acme/web").await, Ok(false));
    for wrong in ["ann\n", "ok acme/web\nann acme\n", "ann a/b/c\n"] {
        let error = list(wrong).unwrap_err().to_string();
        assert!(error.contains(if wrong.starts_with("ok") { "line 2" } else { "line 1" }), "{error}");
    }
    assert!(ListAccess::read(&folder.path().join("none")).is_err());
    let source = open_access(&AccessConfig::List { file: folder.path().join("none") }, &SecretString::from("k"));
    assert!(source.is_err());
}

#[tokio::test]
async fn github_permissions_decide() {
    for (permission, allowed) in
        [("admin", true), ("maintain", true), ("write", true), ("triage", true), ("read", true), ("none", false)]
    {
        let body = format!(r#"{{"permission":"{permission}","role_name":"x","user":{{"login":"ann"}}}}"#);
        let server = StandIn::saying(200, &body).await;
        assert_eq!(ask(&server.github(), "ann-b_c", "acme/web.rs").await, Ok(allowed), "{permission}");
        let head = server.heads().remove(0).to_lowercase();
        assert!(head.starts_with("get /repos/acme/web.rs/collaborators/ann-b_c/permission http/1.1\r\n"), "{head}");
        for line in
            ["authorization: bearer s3cret-token\r\n", "x-github-api-version: 2022-11-28\r\n", "user-agent: runwarden"]
        {
            assert!(head.contains(line), "{head}");
        }
    }
    let missing = StandIn::saying(404, r#"{"message":"Not Found"}"#).await;
    assert_eq!(ask(&missing.github(), "ann", "acme/web").await, Ok(false));
    // GitHub Enterprise has its API below a path.
    let below = GitHubAccess::new(&format!("{}/api/v3/", missing.url), &SecretString::from(SECRET)).unwrap();
    assert_eq!(ask(&below, "ann", "acme/web").await, Ok(false));
    assert!(missing.heads()[1].starts_with("GET /api/v3/repos/acme/web/"));
}

#[tokio::test]
async fn what_cannot_be_a_login_has_no_access_and_is_not_asked_about() {
    let server = StandIn::saying(200, r#"{"permission":"admin"}"#).await;
    for user in ["..", "a/../../acme/other/collaborators/b", "ann?x", "ann b", "%2e%2e", "änn", "a.b"] {
        assert_eq!(ask(&server.github(), user, "acme/web").await, Ok(false), "{user}");
    }
    assert!(server.heads().is_empty());
}

#[tokio::test]
async fn whatever_else_github_says_is_no_answer() {
    for (status, body) in [
        (200, r#"{"permission":"owner"}"#),
        (200, "{}"),
        (200, "<html>"),
        (204, ""),
        (401, "{}"),
        (403, "{}"),
        (429, "{}"),
        (500, "{}"),
        (503, "{}"),
    ] {
        let server = StandIn::saying(status, body).await;
        let error = ask(&server.github(), "ann", "acme/web").await.unwrap_err();
        assert!(!error.to_string().contains(SECRET), "{error}");
    }
}

#[tokio::test]
async fn the_host_application_decides() {
    for (body, allowed) in [(r#"{"allowed":true}"#, true), (r#"{"allowed":false,"why":"left"}"#, false)] {
        let server = StandIn::saying(200, body).await;
        assert_eq!(ask(&server.host(), "ann & bob", "acme/web").await, Ok(allowed));
        let head = server.heads().remove(0);
        let wanted = "GET /may-see?tenant=7&userId=ann+%26+bob&repoFullName=acme%2Fweb HTTP/1.1\r\n";
        assert!(head.starts_with(wanted), "{head}");
        assert!(head.to_lowercase().contains("x-internal-service-key: s3cret-token\r\n"), "{head}");
    }
    for (status, body) in [
        (200, r#"{"allowed":"true"}"#),
        (200, "{}"),
        (200, "true"),
        (200, ""),
        (201, r#"{"allowed":true}"#),
        (403, r#"{"allowed":true}"#),
        (404, "{}"),
        (500, r#"{"allowed":true}"#),
    ] {
        let server = StandIn::saying(status, body).await;
        assert!(ask(&server.host(), "ann", "acme/web").await.is_err(), "{status} {body}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_secret() {
    let target = StandIn::saying(200, r#"{"allowed":true,"permission":"admin"}"#).await;
    let head = format!("HTTP/1.1 302 x\r\nlocation: {}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", target.url);
    let server = StandIn::answering(head).await;
    assert!(ask(&server.host(), "ann", "acme/web").await.is_err());
    assert!(ask(&server.github(), "ann", "acme/web").await.is_err());
    assert!(target.heads().is_empty());
}

#[tokio::test]
async fn an_answer_has_a_bound_and_a_time() {
    let body = format!(r#"{{"allowed":true,"pad":"{}"}}"#, "x".repeat(64 * 1024));
    let large = StandIn::saying(200, &body).await;
    let error = ask(&large.host(), "ann", "acme/web").await.unwrap_err();
    assert!(error.to_string().contains("65536 bytes"), "{error}");
    // Without a length it is counted as it comes.
    let counted = StandIn::answering(format!("HTTP/1.1 200 x\r\nconnection: close\r\n\r\n{body}")).await;
    assert!(ask(&counted.host(), "ann", "acme/web").await.is_err());
    let silent = StandIn::answering("").await;
    let started = Instant::now();
    assert!(ask(&silent.host(), "ann", "acme/web").await.is_err());
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn nobody_there_is_no_answer_and_tells_no_secret() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{closed}/?key=hunter2");
    let source = HostAccess::new(&url, &SecretString::from(SECRET)).unwrap();
    let error = ask(&source, "ann", "acme/web").await.unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains(SECRET) && !text.contains("hunter2"), "{text}");
    }
    assert!(!format!("{source:?}").contains(SECRET));
}

#[test]
fn a_source_that_cannot_be_used_is_refused_at_start() {
    let key = SecretString::from(SECRET);
    for url in ["http://", "https://user:pa55@x/", "https://x/#y", "no url"] {
        let error = HostAccess::new(url, &key).unwrap_err().to_string();
        assert!(!error.contains("pa55"), "{error}");
    }
    assert!(GitHubAccess::new("https://api.github.com?x", &key).is_err());
    assert!(GitHubAccess::new("https://api.github.com", &SecretString::from("a\nb")).is_err());
}
