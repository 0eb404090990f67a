//! Task 7.3C: public preview routing.

use crate::app::block_on;
use crate::raw::Raw;
use crate::world::{APP, CLOSED, ECHO, Place, ROUTES, World, locked};

#[test]
fn public_endpoint_accessible_without_auth() {
    block_on(async {
        let world = World::new("c1").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let answer = world.ask("GET", &format!("/previews/{id}/hello")).await;
        assert_eq!((answer.status, &answer.json()["who"]), (200, &"s".into()));
    });
}

#[test]
fn proxy_all_http_methods() {
    block_on(async {
        let world = World::new("c2").await;
        let id = world.app("s").await;
        world.register(&id, ECHO).await;
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "BREW"] {
            let answer = world.ask(method, &format!("/previews/{id}/pot")).await;
            assert_eq!(answer.status, 200, "{method}: {}", answer.head);
            if method != "HEAD" {
                assert!(answer.text().starts_with(&format!("{method} /pot HTTP/1.1\r\n")), "{}", answer.text());
            }
        }
        world.register(&id, APP).await;
        let mut raw = Raw::connect(&world.server.url).await;
        raw.send(format!("HEAD /previews/{id}/teapot HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let answer = raw.answer_to("HEAD").await.unwrap();
        assert_eq!((answer.status, answer.header("x-pot").as_deref(), answer.body.len()), (418, Some("tea"), 0));
        // A tunnel is no request to an app.
        let answer = world.ask("CONNECT", "example.org:443").await;
        assert!((400..500).contains(&answer.status), "{}", answer.head);
    });
}

#[test]
fn return_404_for_unregistered_preview() {
    block_on(async {
        let world = World::new("c3").await;
        let id = world.app("s").await;
        for path in [format!("/previews/{id}/"), format!("/previews/{id}"), format!("/previews/{id}/a/b?c")] {
            let answer = world.ask("POST", &path).await;
            let message = format!("No preview port registered for session {id}");
            let expected = locked("not_found", 404, &message, "Not Found");
            assert_eq!((answer.status, answer.json()), (404, expected), "{path}");
        }
    });
}

#[test]
fn return_500_for_stopped_container() {
    block_on(async {
        let world = World::new("c4").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        assert_eq!(world.ask("GET", &format!("/previews/{id}/")).await.status, 200);
        world.stop("s").await;
        let answer = world.ask("GET", &format!("/previews/{id}/")).await;
        let message = format!("Container for session {id} is not running");
        let expected = locked("container_not_running", 500, &message, "Internal Server Error");
        assert_eq!((answer.status, answer.json()), (500, expected));
        // The registration has outlived it: nothing is cleaned up.
        world.docker.start_container(&world.container("s"), None).await.unwrap();
        world.listening(&world.container("s")).await;
        assert_eq!(world.ask("GET", &format!("/previews/{id}/")).await.status, 200);
    });
}

#[test]
fn return_502_for_proxy_failure() {
    block_on(async {
        let world = World::new("c5").await;
        let id = world.app("s").await;
        world.register(&id, CLOSED).await;
        let answer = world.ask("GET", &format!("/previews/{id}/")).await;
        let expected = locked("upstream_unreachable", 502, "Bad Gateway", "Failed to connect to preview server");
        assert_eq!((answer.status, answer.json()), (502, expected));
    });
}

#[test]
fn reuse_preview_proxy_service_validation() {
    block_on(async {
        let world = World::new("c6").await;
        let (app, alone, gone) = (
            world.app("app").await,
            world.idle("alone", Place::Nowhere).await,
            world.idle("gone", Place::Anywhere).await,
        );
        for id in [&app, &alone, &gone] {
            world.register(id, APP).await;
        }
        world.remove("gone").await;
        for (id, status) in [(app.as_str(), 200), (&alone, 500), (&gone, 500), ("nobody", 404)] {
            let mut answers = Vec::new();
            for route in ROUTES {
                let answer = world.ask("GET", &format!("{route}/{id}/same")).await;
                assert_eq!(answer.status, status, "{route}/{id}: {}", answer.text());
                answers.push(answer.json());
            }
            assert_eq!(answers[0], answers[1], "{id}");
        }
    });
}
