//! Which adapter answers for which provider.

use runwarden::outbound::OutboundClient;
use runwarden::sandbox::{DaytonaSandbox, DaytonaSettings, DockerSandbox, ProcessSandbox, Sandboxes};
use runwarden_actors::contract::{CodesandboxId, SandboxProvider};
use runwarden_actors::ports::{PreviewHost, Sandbox, SandboxError, SandboxTarget};

use crate::git_repository::Repository;

fn target(provider: SandboxProvider, repo_dir: &str) -> SandboxTarget {
    SandboxTarget { provider, codesandbox_id: CodesandboxId::parse("s-1").unwrap(), repo_dir: Some(repo_dir.into()) }
}

/// Daytona without a key.
fn daytona() -> DaytonaSandbox {
    let settings = DaytonaSettings {
        api_url: "https://daytona.invalid/api".to_owned(),
        api_key: None,
        organization_id: None,
        preview_suffixes: vec![".preview.invalid".to_owned()],
    };
    DaytonaSandbox::new(settings, OutboundClient::new().unwrap()).unwrap()
}

#[tokio::test]
async fn each_provider_has_its_adapter_or_a_reason() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::init(&root.path().join("r"), &[]);
    repository.write("a", "a");
    let commit = repository.commit();
    let path = repository.path.to_str().unwrap();
    let docker = || DockerSandbox::new(&format!("unix://{}/none.sock", root.path().display())).unwrap();
    let process = ProcessSandbox::new(root.path()).unwrap();

    let sandboxes = Sandboxes::new(docker(), Some(process), daytona());
    let head = sandboxes.head_sha(&target(SandboxProvider::Process, path)).await.unwrap();
    assert_eq!(head.as_str(), commit);
    for provider in [SandboxProvider::Daytona, SandboxProvider::E2b, SandboxProvider::Docker] {
        let error = sandboxes.head_sha(&target(provider, path)).await.unwrap_err();
        assert!(matches!(error, SandboxError::ProviderUnavailable(_)), "{provider}: {error}");
        let error = sandboxes.changed_paths(&target(provider, path), &head, None).await.unwrap_err();
        assert!(matches!(error, SandboxError::ProviderUnavailable(_)), "{provider}: {error}");
    }

    for (provider, has) in [
        (SandboxProvider::Docker, true),
        (SandboxProvider::Daytona, true),
        (SandboxProvider::Process, true),
        (SandboxProvider::E2b, false),
    ] {
        assert_eq!(sandboxes.has_previews(provider), has, "{provider}");
    }
    let error = sandboxes.upstream(&target(SandboxProvider::Daytona, path), 3000).await.unwrap_err();
    assert_eq!(error, SandboxError::ProviderUnavailable("DAYTONA_API_KEY is not set".to_owned()));
    let error = sandboxes.upstream(&target(SandboxProvider::E2b, path), 3000).await.unwrap_err();
    assert!(matches!(error, SandboxError::ProviderUnavailable(_)), "{error}");

    let bare = Sandboxes::new(docker(), None, daytona());
    assert!(!bare.has_previews(SandboxProvider::Process));
    let refused = bare.head_sha(&target(SandboxProvider::Process, path)).await.unwrap_err();
    assert_eq!(refused, SandboxError::ProviderUnavailable("PROCESS_SANDBOX_ROOT is not set".to_owned()));
}
