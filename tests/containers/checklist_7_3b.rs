//! Task 7.3B: the internal preview proxy.

use crate::app::block_on;
use crate::world::{APP, CLOSED, World, locked};

#[test]
fn proxy_get_post_put_delete_requests() {
    block_on(async {
        let world = World::new("b1").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        for (method, body) in [("GET", ""), ("POST", "posted"), ("PUT", "put"), ("DELETE", ""), ("DELETE", "deleted")] {
            let answer = world.send(method, &format!("/internal-previews/proxy/{id}/thing?x=1"), "", body).await;
            let seen = answer.json();
            assert_eq!(answer.status, 200, "{}", answer.head);
            assert_eq!((&seen["method"], &seen["url"]), (&method.into(), &"/thing?x=1".into()));
            assert_eq!(seen["body"], body, "{method}");
        }
    });
}

#[test]
fn return_404_for_unregistered_session() {
    block_on(async {
        let world = World::new("b2").await;
        // Its container is there and its app listens: it is not registered.
        let id = world.app("s").await;
        for id in [id.as_str(), "nobody", "no%20body", ".."] {
            let answer = world.ask("GET", &format!("/internal-previews/proxy/{id}/")).await;
            let message = format!("No preview port registered for session {id}");
            let expected = locked("not_found", 404, &message, "Not Found");
            assert_eq!((answer.status, answer.json()), (404, expected));
        }
    });
}

#[test]
fn return_500_for_stopped_container() {
    block_on(async {
        let world = World::new("b3").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        world.stop("s").await;
        let answer = world.ask("GET", &format!("/internal-previews/proxy/{id}/")).await;
        let message = format!("Container for session {id} is not running");
        let expected = locked("container_not_running", 500, &message, "Internal Server Error");
        assert_eq!((answer.status, answer.json()), (500, expected));
    });
}

#[test]
fn return_502_for_proxy_connection_failure() {
    block_on(async {
        let world = World::new("b4").await;
        let id = world.app("s").await;
        let expected = locked("upstream_unreachable", 502, "Bad Gateway", "Failed to connect to preview server");
        world.register(&id, CLOSED).await;
        let answer = world.ask("GET", &format!("/internal-previews/proxy/{id}/")).await;
        assert_eq!((answer.status, answer.json()), (502, expected.clone()), "a closed port");
        world.register(&id, APP).await;
        let answer = world.ask("GET", &format!("/internal-previews/proxy/{id}/hang-up")).await;
        assert_eq!((answer.status, answer.json()), (502, expected), "an app that hangs up");
    });
}

#[test]
fn strip_path_prefix_correctly() {
    block_on(async {
        let world = World::new("b5").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let prefix = format!("/internal-previews/proxy/{id}");
        for (asked, seen) in [
            (format!("{prefix}/"), "/".to_owned()),
            (format!("{prefix}/?x"), "/?x".to_owned()),
            (format!("{prefix}{prefix}/x"), format!("{prefix}/x")),
            (format!("{prefix}/previews/{id}/x"), format!("/previews/{id}/x")),
        ] {
            assert_eq!(world.ask("GET", &asked).await.json()["url"], seen, "{asked}");
        }
        // Without the slash, a page's relative links would lead out of its preview.
        for (asked, to) in [(prefix.clone(), format!("{prefix}/")), (format!("{prefix}?x=1"), format!("{prefix}/?x=1"))]
        {
            let answer = world.ask("GET", &asked).await;
            assert_eq!((answer.status, answer.header("location")), (307, Some(to)), "{asked}");
        }
    });
}

#[test]
fn preserve_request_path_suffix() {
    block_on(async {
        let world = World::new("b6").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        for suffix in ["/a/b.html?x=1&y=%20#", "/a//b/", "/%2e%2E/x", "/a%2Fb", "/caf%C3%A9", "/.", "/a/../b", "/?"] {
            let asked = format!("/internal-previews/proxy/{id}{suffix}");
            let seen = suffix.trim_end_matches('#');
            assert_eq!(world.ask("GET", &asked).await.json()["url"], seen, "{suffix}");
        }
    });
}
