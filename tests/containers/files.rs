//! Files of a session's workspace: read, written, listed and looked at, and nothing outside.

use serde_json::{Value, json};

use crate::app::{INTERNAL_KEY, block_on};
use crate::primitives::started;
use crate::world::World;

pub struct Files {
    pub world: World,
    pub id: String,
}

impl Files {
    pub async fn new(prefix: &'static str) -> Self {
        let (world, id) = started(prefix).await;
        Self { world, id }
    }

    pub async fn send(&self, method: reqwest::Method, query: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        let url = format!("{}/api/internal/sessions/{}/files?{query}", self.world.server.url, self.id);
        let request = self.world.server.http.request(method, url).header("X-Internal-Service-Key", INTERNAL_KEY);
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
    }

    pub async fn get(&self, query: &str) -> (u16, Vec<u8>) {
        self.send(reqwest::Method::GET, query, Vec::new()).await
    }

    pub async fn json(&self, query: &str) -> (u16, Value) {
        let (status, body) = self.get(query).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    pub async fn put(&self, path: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
        let (status, body) = self.send(reqwest::Method::PUT, &format!("path={path}"), body.into()).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    pub async fn sh(&self, script: &str) -> String {
        let (_, answer) = self.world.exec(&self.id, json!({"command": ["sh", "-c", script]})).await;
        assert_eq!(answer["exitCode"], 0, "{answer}");
        answer["stdout"].as_str().unwrap().to_owned()
    }
}

#[test]
fn files_are_written_read_listed_and_looked_at() {
    block_on(async {
        let files = Files::new("files").await;
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let (status, body) = files.put("deep/er/a%20b.bin", bytes.clone()).await;
        assert_eq!((status, &body["name"], &body["kind"]), (200, &"a b.bin".into(), &"file".into()), "{body}");
        assert_eq!(body["sizeBytes"], 300_000);
        assert_eq!(files.get("path=deep/er/a%20b.bin").await, (200, bytes));
        // Again, shorter: nothing of the old one is left, and a program stays one.
        files.sh("chmod +x 'deep/er/a b.bin'").await;
        assert_eq!(files.put("./deep//er/a%20b.bin", "").await.0, 200);
        assert_eq!(files.get("path=deep/er/a%20b.bin&op=read").await, (200, Vec::new()));
        assert!(
            files.sh("[ -x 'deep/er/a b.bin' ] && ls -A deep/er").await.trim() == "a b.bin",
            "nothing is left beside it"
        );

        files.sh("touch -- -n '*' .hidden 'new\nline'; mkdir dir; ln -s /etc out; mkfifo pipe").await;
        let (status, body) = files.json("op=list").await;
        assert_eq!((status, &body["truncated"]), (200, &false.into()), "{body}");
        let mut listed: Vec<(String, String)> = body["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| (entry["name"].as_str().unwrap().to_owned(), entry["kind"].as_str().unwrap().to_owned()))
            .collect();
        listed.sort();
        let expected = [
            ("*", "file"),
            ("-n", "file"),
            (".hidden", "file"),
            ("deep", "folder"),
            ("dir", "folder"),
            ("new\nline", "file"),
            ("out", "link"),
            ("pipe", "other"),
        ];
        assert_eq!(listed, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
        assert_eq!(files.json("path=dir&op=list").await, (200, json!({"entries": [], "truncated": false})));
        for (path, kind) in
            [("dir", "folder"), ("out", "link"), (".", "folder"), ("pipe", "other"), ("deep/er", "folder")]
        {
            let (status, body) = files.json(&format!("path={path}&op=stat")).await;
            assert_eq!((status, &body["kind"]), (200, &kind.into()), "{path}: {body}");
            assert!(body["modifiedAtSeconds"].as_i64().unwrap() > 1_600_000_000, "{body}");
        }
    });
}

#[test]
fn nothing_leads_out_of_the_workspace() {
    block_on(async {
        let files = Files::new("out").await;
        files.sh("echo secret >/tmp/secret; ln -s /tmp/secret file; ln -s /tmp folder; ln -s ../../tmp up; mkdir in; echo x >in/x; \
                  ln -s in inside; ln -s /tmp/none dangling; ln -s in/x link-inside").await;
        let refused = async |query: &str, status: u16| {
            let (found, body) = files.json(query).await;
            assert_eq!(found, status, "{query}: {body}");
            assert!(!body.to_string().contains("secret\\n"), "{body}");
        };
        for path in ["../etc", "a/../../tmp/secret", "/tmp/secret", "a%00b", "%2Ftmp/secret", ".."] {
            for op in ["read", "list", "stat"] {
                refused(&format!("path={path}&op={op}"), 400).await;
            }
            assert_eq!(files.put(path, "x").await.0, 400, "{path}");
        }
        for query in [
            "path=file",
            "path=folder/secret",
            "path=up/secret",
            "path=folder&op=list",
            "path=up&op=list",
            "path=folder/secret&op=stat",
        ] {
            refused(query, 403).await;
        }
        for path in ["file", "folder/new", "up/new", "folder/deep/new", "dangling", "link-inside"] {
            let (status, body) = files.put(path, "x").await;
            assert_eq!((status, &body["code"]), (403, &"permission_denied".into()), "{path}: {body}");
        }
        assert_eq!(files.sh("cat /tmp/secret; ls -A /tmp").await, "secret\nsecret\n", "nothing was written there");
        // A link that stays inside may be read.
        assert_eq!(files.get("path=inside/x").await, (200, b"x\n".to_vec()));
        assert_eq!(files.get("path=link-inside").await, (200, b"x\n".to_vec()));
    });
}

#[test]
fn what_cannot_be_done_is_said() {
    block_on(async {
        let files = Files::new("said").await;
        files
            .sh("mkdir dir; echo x >file; mkfifo pipe; i=0; while [ $i -lt 1001 ]; do : >dir/$i; i=$((i + 1)); done")
            .await;
        for (query, status, code) in [
            ("path=none", 404, "not_found"),
            ("path=none&op=stat", 404, "not_found"),
            ("path=none&op=list", 404, "not_found"),
            ("path=dir", 400, "invalid_request"),
            ("path=file&op=list", 400, "invalid_request"),
            ("path=pipe", 400, "invalid_request"),
            ("path=file&op=remove", 400, "invalid_request"),
            ("path=file/x", 404, "not_found"),
        ] {
            let (found, body) = files.json(query).await;
            assert_eq!((found, &body["code"]), (status, &code.into()), "{query}: {body}");
        }
        for (path, status) in [("dir", 400), ("file/x", 400), ("", 400), (".", 400)] {
            let (found, body) = files.put(path, "x").await;
            assert_eq!(found, status, "{path}: {body}");
        }
        let (_, listing) = files.json("path=dir&op=list").await;
        assert_eq!((listing["entries"].as_array().unwrap().len(), &listing["truncated"]), (1000, &true.into()));
        let (status, body) = files.put("large", vec![b'x'; 8 * 1024 * 1024 + 1]).await;
        assert_eq!((status, &body["code"]), (413, &"payload_too_large".into()));
        assert_eq!(files.put("large", vec![b'x'; 8 * 1024 * 1024]).await.0, 200);
        assert_eq!(files.get("path=large").await.1.len(), 8 * 1024 * 1024);
        files.sh("echo y >>large").await;
        assert_eq!(files.get("path=large").await.0, 413);
        files.world.stop("s").await;
        for query in ["path=file", "op=list", "path=file&op=stat"] {
            let (status, body) = files.json(query).await;
            assert_eq!((status, &body["code"]), (409, &"conflict".into()), "{query}: {body}");
        }
    });
}
