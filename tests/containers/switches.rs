//! What an operator can switch.

use crate::app::{Db, Options, block_on};
use crate::world::{APP, World};

#[test]
fn each_open_route_can_be_switched_off() {
    block_on(async {
        for (setting, off, on) in [
            ("CONTAINER_PREVIEWS_PUBLIC", "/previews", "/internal-previews/proxy"),
            ("CONTAINER_PREVIEWS_INTERNAL", "/internal-previews/proxy", "/previews"),
        ] {
            let world = World::with("off", Options::new(Db::Sqlite).set(setting, "off")).await;
            let id = world.app(off.trim_start_matches('/').split('-').next().unwrap()).await;
            world.register(&id, APP).await;
            let answer = world.ask("GET", &format!("{off}/{id}/")).await;
            assert!(answer.is(404, "not_found") && answer.json().get("statusCode").is_none(), "{}", answer.text());
            assert_eq!(world.ask("GET", &format!("{on}/{id}/")).await.status, 200);
        }
    });
}
