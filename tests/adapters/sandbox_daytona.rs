//! The Daytona adapter against a stand-in of its API.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::time::Duration;

use runwarden::outbound::OutboundClient;
use runwarden::sandbox::{DaytonaSandbox, DaytonaSettings};
use runwarden_actors::contract::{CodesandboxId, CommitSha, SandboxProvider};
use runwarden_actors::ports::{CommandState, PreviewHost, Sandbox, SandboxError, SandboxTarget, Scheme, UpstreamReach};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::daytona_stand_in::{Daytona, Fault, KEY, TOKEN};
use crate::git_repository::{COMMITTED, IN_WORKING_TREE, Repository, entries};
use crate::preview_command::{NEVER, command, config, free_port, run};

struct World {
    daytona: Daytona,
    sandbox: DaytonaSandbox,
    folder: TempDir,
}

fn adapter(url: &str, key: Option<&str>) -> DaytonaSandbox {
    let settings = DaytonaSettings {
        api_url: url.to_owned(),
        api_key: key.map(|key| SecretString::from(key.to_owned())),
        organization_id: Some("org-1".to_owned()),
        preview_suffixes: vec![".other.example.net".to_owned(), ".preview.example.net".to_owned()],
    };
    DaytonaSandbox::new(settings, OutboundClient::new().unwrap()).unwrap()
}

impl World {
    fn new() -> Self {
        let daytona = Daytona::start();
        let sandbox = adapter(&daytona.url, Some(KEY));
        Self { daytona, sandbox, folder: tempfile::tempdir().unwrap() }
    }

    fn target(&self, id: &str) -> SandboxTarget {
        SandboxTarget {
            provider: SandboxProvider::Daytona,
            codesandbox_id: CodesandboxId::parse(id).unwrap(),
            repo_dir: Some(self.folder.path().display().to_string()),
        }
    }
}

fn shows_no_secret(error: &SandboxError) {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(KEY) && !text.contains(TOKEN) && !text.contains("127.0.0.1"), "{text}");
}

#[tokio::test]
async fn git_is_asked_through_the_toolbox_whether_new_or_old() {
    let world = World::new();
    let repository = Repository::init(world.folder.path(), &[]);
    let (base, end) = repository.with_changes();
    let (base, end) = (CommitSha::parse(&base).unwrap(), CommitSha::parse(&end).unwrap());
    for id in ["sb-new", "sb-old"] {
        let target = world.target(id);
        assert_eq!(world.sandbox.head_sha(&target).await.unwrap(), end, "{id}");
        let changes = world.sandbox.changed_paths(&target, &base, Some(&end)).await.unwrap();
        assert_eq!(entries(&changes), COMMITTED, "{id}");
    }
    repository.dirty();
    for id in ["sb-new", "sb-old"] {
        let changes = world.sandbox.changed_paths(&world.target(id), &base, None).await.unwrap();
        assert_eq!(entries(&changes), IN_WORKING_TREE, "{id}");
    }
    let elsewhere = SandboxTarget { repo_dir: Some("/tmp".to_owned()), ..world.target("sb-new") };
    let error = world.sandbox.head_sha(&elsewhere).await.unwrap_err();
    assert!(error.to_string().contains("exit code 128: fatal: not a git"), "{error}");
    let nowhere = SandboxTarget { repo_dir: None, ..world.target("sb-new") };
    assert!(matches!(world.sandbox.head_sha(&nowhere).await, Err(SandboxError::CommandFailed(_))));
}

#[tokio::test]
async fn a_preview_is_started_watched_and_ended() {
    let world = World::new();
    for id in ["sb-new", "sb-old"] {
        let (target, port) = (world.target(id), free_port());
        assert_eq!(world.sandbox.missing_capabilities(&target, &config(port, "x")).await.unwrap(), [""; 0]);
        let start = async |n: u8, text: &str| {
            world.sandbox.start_preview(&target, &command(n, port, text)).await.unwrap();
        };
        let report = async |n: u8| world.sandbox.preview_report(&target, run(n), port).await.unwrap();
        start(1, "echo \"it's $PORT\"; exec sleep 100").await;
        let first = loop {
            let first = report(1).await;
            if !first.output_tail.is_empty() {
                break first;
            }
            sleep(Duration::from_millis(50)).await;
        };
        assert_eq!((first.state, first.output_tail), (CommandState::Running, format!("it's {port}\n")));
        start(2, "echo out; exit 3").await;
        assert_eq!(report(1).await, NEVER);
        let second = loop {
            let second = report(2).await;
            if second.state != CommandState::Running {
                break second;
            }
            sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(second.state, CommandState::Exited { exit_code: Some(3) });
        assert_eq!(second.output_tail, "out\n");
        world.sandbox.stop_preview(&target, run(2), port).await.unwrap();
        assert_eq!(report(2).await, NEVER);
    }
    let reserved = world.sandbox.missing_capabilities(&world.target("sb-new"), &config(2280, "x")).await.unwrap();
    assert!(reserved.len() == 1 && reserved[0].contains("2280"), "{reserved:?}");
}

#[tokio::test]
async fn a_file_is_read_only_where_it_lies_inside() {
    let world = World::new();
    let target = world.target("sb-new");
    fs::write(world.folder.path().join("a.json"), [b'{', 0xff, 0, b'}']).unwrap();
    symlink("/etc/passwd", world.folder.path().join("escape")).unwrap();
    assert_eq!(
        world.sandbox.read_repo_file(&target, "a.json", 4).await.unwrap().as_deref(),
        Some([b'{', 0xff, 0, b'}'].as_slice())
    );
    assert_eq!(world.sandbox.read_repo_file(&target, "none", 4).await.unwrap(), None);
    for (path, most, why) in [("a.json", 3, "more than 3 bytes"), ("escape", 99_999, "outside")] {
        let error = world.sandbox.read_repo_file(&target, path, most).await.unwrap_err();
        assert!(matches!(&error, SandboxError::CommandFailed(text) if text.contains(why)), "{error}");
    }
}

#[tokio::test]
async fn the_upstream_is_a_name_below_a_trusted_domain() {
    let world = World::new();
    let target = world.target("sb-new");
    let upstream = world.sandbox.upstream(&target, 3000).await.unwrap();
    assert_eq!((upstream.scheme, upstream.port), (Scheme::Https, 443));
    assert_eq!(upstream.host, "3000-sb-new.preview.example.net");
    assert_eq!(upstream.reach, UpstreamReach::Named { trusted_suffix: ".preview.example.net".to_owned() });
    assert_eq!(upstream.auth_headers[0].name, "x-daytona-preview-token");
    assert_eq!(upstream.auth_headers[0].value, TOKEN);
    assert!(!format!("{upstream:?}").contains(TOKEN));
    for url in [
        "http://3000-sb-new.preview.example.net",
        "https://3000-sb-new.preview.example.net.evil.example",
        "https://preview.example.net",
        "https://user:pw@3000-sb-new.preview.example.net",
        "https://127.0.0.1",
        "nonsense",
        "",
    ] {
        world.daytona.set_preview_url(url);
        let error = world.sandbox.upstream(&target, 3000).await.unwrap_err();
        assert!(matches!(error, SandboxError::CommandFailed(_)), "{url}: {error}");
        shows_no_secret(&error);
    }
    // It is asked each time: the sandbox may be gone by now.
    world.daytona.set_state("stopped");
    let error = world.sandbox.upstream(&target, 3000).await.unwrap_err();
    assert_eq!(error, SandboxError::NotRunning("the sandbox `sb-new` is `stopped`".to_owned()));
}

#[tokio::test]
async fn a_sandbox_that_does_not_run_is_not_running() {
    let world = World::new();
    let report = async |id: &str| world.sandbox.preview_report(&world.target(id), run(1), 3000).await;
    // Its toolbox is known by then, and answers something else than that it stopped.
    report("sb-new").await.unwrap();
    world.daytona.set_state("stopped");
    for id in ["sb-new", "sb-old", "sb-none", "../sandbox", "a b", "é"] {
        let error = report(id).await.unwrap_err();
        assert!(matches!(error, SandboxError::NotRunning(_)), "{id}: {error}");
    }
    assert!(!world.daytona.asked().iter().any(|line| line.contains("..") || line.contains("%2F")));
    world.daytona.set_state("started");
    report("sb-new").await.unwrap();
}

#[tokio::test]
async fn what_daytona_refuses_says_why_and_no_secret() {
    let world = World::new();
    let target = world.target("sb-new");
    let unavailable = |error: &SandboxError| matches!(error, SandboxError::ProviderUnavailable(_));
    for (status, body) in [
        (401, KEY.to_owned()),
        (403, KEY.to_owned()),
        (302, KEY.to_owned()),
        (429, String::new()),
        (500, TOKEN.to_owned()),
        (503, String::new()),
        (200, "no json".to_owned()),
        (200, "x".repeat(2 * 1024 * 1024)),
    ] {
        let headers = "location: http://127.0.0.1:1/elsewhere\r\n";
        world.daytona.fail(Some(Fault { status, headers, body, times: usize::MAX }));
        let error = world.sandbox.upstream(&target, 3000).await.unwrap_err();
        assert!(unavailable(&error), "{status}: {error}");
        // A redirect that was followed would be another error.
        assert!([200, 429].contains(&status) || error.to_string().contains(&status.to_string()), "{status}: {error}");
        shows_no_secret(&error);
        let error = world.sandbox.head_sha(&target).await.unwrap_err();
        assert!(unavailable(&error), "{status}: {error}");
        shows_no_secret(&error);
    }
    let large = world.sandbox.upstream(&target, 3000).await.unwrap_err();
    assert!(large.to_string().contains("more than 1048576 bytes"), "{large}");
    world.daytona.fail(None);
    let stranger = adapter(&world.daytona.url, Some("another"));
    let error = stranger.upstream(&target, 3000).await.unwrap_err();
    assert!(unavailable(&error) && error.to_string().contains("401"), "{error}");
    shows_no_secret(&error);
    assert!(!format!("{:?}", adapter(&world.daytona.url, Some(KEY))).contains(KEY));

    let without = adapter(&world.daytona.url, None);
    world.daytona.asked();
    let error = without.upstream(&target, 3000).await.unwrap_err();
    assert_eq!(error, SandboxError::ProviderUnavailable("DAYTONA_API_KEY is not set".to_owned()));
    assert!(without.has_previews(SandboxProvider::Daytona));
    assert_eq!(world.daytona.asked(), [""; 0]);
}

#[tokio::test]
async fn a_short_rate_limit_is_waited_for() {
    let world = World::new();
    let fault = |headers, times| Some(Fault { status: 429, headers, body: String::new(), times });
    world.daytona.fail(fault("retry-after: 0\r\n", 2));
    assert!(world.sandbox.upstream(&world.target("sb-new"), 3000).await.is_ok());
    // Neither for ever nor for long.
    world.daytona.asked();
    for (headers, times, asked) in [("retry-after: 0\r\n", 3, 3), ("retry-after: 60\r\n", 1, 1), ("", 1, 1)] {
        world.daytona.fail(fault(headers, times));
        let error = world.sandbox.upstream(&world.target("sb-new"), 3000).await.unwrap_err();
        assert!(error.to_string().contains("rate limit"), "{error}");
        assert_eq!(world.daytona.asked().len(), asked, "{headers}");
    }
}

#[tokio::test]
async fn an_api_that_is_away_is_unavailable() {
    let world = World::new();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = adapter(&format!("http://{address}/api"), Some(KEY));
    let error = away.upstream(&world.target("sb-new"), 3000).await.unwrap_err();
    assert!(matches!(error, SandboxError::ProviderUnavailable(_)), "{error}");
    shows_no_secret(&error);
}

/// The clock jumps ahead whenever nothing else can happen.
#[tokio::test(start_paused = true)]
async fn an_api_that_hangs_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = adapter(&format!("http://{}/api", listener.local_addr().unwrap()), Some(KEY));
    let target = SandboxTarget {
        provider: SandboxProvider::Daytona,
        codesandbox_id: CodesandboxId::parse("sb-1").unwrap(),
        repo_dir: Some("/r".to_owned()),
    };
    let error = slow.upstream(&target, 3000).await.unwrap_err();
    assert!(matches!(error, SandboxError::Timeout(_)), "{error}");
    shows_no_secret(&error);
}
