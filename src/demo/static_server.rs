//! What the demonstration's app is served by: the files of one folder on loopback. It is the preview command of the run,
//! as `npm run dev` would be of another app, and part of this program so that it is there on every machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix_web::http::header;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use rustix::process::getppid;
use tokio::time::interval;

/// Largest file that is served.
const FILE_MAX_BYTES: u64 = 1024 * 1024;
/// How often it is looked whether the caller is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Serves `folder` on the port that `PORT` names, until its caller ends.
pub(super) async fn serve(folder: &Path) -> anyhow::Result<()> {
    let root = folder.canonicalize().with_context(|| format!("folder {}", folder.display()))?;
    let port = std::env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok()).context("PORT names no port")?;
    let server =
        HttpServer::new(move || App::new().app_data(web::Data::new(root.clone())).default_service(web::to(file)));
    let server = server.workers(1).bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port}"))?.run();
    let handle = server.handle();
    let caller = getppid();
    actix_web::rt::spawn(async move {
        let mut looks = interval(LOOK_EVERY);
        while getppid() == caller {
            looks.tick().await;
        }
        handle.stop(false).await;
    });
    Ok(server.await?)
}

async fn file(root: web::Data<PathBuf>, request: HttpRequest) -> HttpResponse {
    let Some((path, kind)) = place(&root, request.path()) else { return HttpResponse::NotFound().finish() };
    let fits = tokio::fs::metadata(&path).await.is_ok_and(|found| found.is_file() && found.len() <= FILE_MAX_BYTES);
    match tokio::fs::read(&path).await {
        Ok(bytes) if fits => {
            HttpResponse::Ok().content_type(kind).insert_header((header::CACHE_CONTROL, "no-cache")).body(bytes)
        }
        _ => HttpResponse::NotFound().finish(),
    }
}

/// The file that is asked for and its type. Only plain names lead to one: nothing hidden, nothing above the folder.
fn place(root: &Path, asked: &str) -> Option<(PathBuf, &'static str)> {
    let asked = match asked.strip_prefix('/')? {
        "" => "index.html",
        other => other,
    };
    let plain = |name: &str| {
        !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    let kind = match asked.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        _ => return None,
    };
    let path = asked.split('/').all(plain).then(|| root.join(asked).canonicalize().ok())??;
    path.starts_with(root).then_some((path, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_of_the_folder_are_served() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("app");
        std::fs::create_dir_all(root.join("parts")).unwrap();
        std::fs::create_dir(root.join(".git")).unwrap();
        for name in ["index.html", "parts/a.js", ".git/config.json", "../secret.json", "key"] {
            std::fs::write(root.join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink("../secret.json", root.join("link.json")).unwrap();
        for (asked, found) in [
            ("/", true),
            ("/index.html", true),
            ("/parts/a.js", true),
            ("/missing.js", false),
            ("/key", false),
            ("/.git/config.json", false),
            ("/../secret.json", false),
            ("/parts/../index.html", false),
            ("//index.html", false),
            ("/link.json", false),
            ("index.html", false),
        ] {
            assert_eq!(place(&root, asked).is_some(), found, "{asked}");
        }
    }
}
