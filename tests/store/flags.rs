//! Feature flag overrides.

use runwarden_actors::contract::{FeatureFlag, FlagScope, RepoFullName, UserId};

use crate::harness::Database;
use crate::sample::NOW;

on_both!(each_scope_has_an_override_of_its_own, an_override_can_be_changed_and_removed);

fn scopes() -> [FlagScope; 3] {
    // A user may be called like a repository.
    let name = "acme/web";
    [
        FlagScope::User(UserId::parse(name).unwrap()),
        FlagScope::Repo(RepoFullName::parse(name).unwrap()),
        FlagScope::Default,
    ]
}

async fn each_scope_has_an_override_of_its_own(database: Database) {
    let store = &database.store;
    for set in scopes() {
        for flag in FeatureFlag::ALL {
            store.set_flag_override(*flag, &set, false, NOW).await.unwrap();
            for scope in scopes() {
                let expected = (scope == set).then_some(false);
                assert_eq!(store.flag_override(*flag, &scope).await.unwrap(), expected, "{set:?} {scope:?}");
            }
            assert!(store.delete_flag_override(*flag, &set).await.unwrap());
        }
    }
}

async fn an_override_can_be_changed_and_removed(database: Database) {
    let (store, flag, scope) = (&database.store, FeatureFlag::SandboxPreview, FlagScope::Default);
    for enabled in [true, true, false] {
        store.set_flag_override(flag, &scope, enabled, NOW).await.unwrap();
        assert_eq!(store.flag_override(flag, &scope).await.unwrap(), Some(enabled));
    }
    assert_eq!(store.flag_override(FeatureFlag::DaemonRunIdStrict, &scope).await.unwrap(), None);
    assert!(store.delete_flag_override(flag, &scope).await.unwrap());
    assert!(!store.delete_flag_override(flag, &scope).await.unwrap());
    assert_eq!(store.flag_override(flag, &scope).await.unwrap(), None);
}
