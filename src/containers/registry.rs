//! Who has registered which port (section 8): in memory, the last one wins, forgotten with the process.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use runwarden_actors::contract::ContainerSessionId;
use runwarden_actors::contract::limits::CONTAINER_REGISTRATIONS_MAX;

use crate::sandbox::ContainerLife;

/// A registered port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// TCP port inside of the container.
    pub port: u16,
    /// The container that was seen to run when it was registered.
    pub life: ContainerLife,
}

/// At most [`CONTAINER_REGISTRATIONS_MAX`] sessions.
#[derive(Debug, Default)]
pub struct Registry {
    ports: RwLock<HashMap<ContainerSessionId, Registered>>,
}

impl Registry {
    /// Registers a session's port, over the one before; `false` where there are too many.
    pub fn put(&self, session: ContainerSessionId, registered: Registered) -> bool {
        let mut ports = self.ports.write().unwrap_or_else(PoisonError::into_inner);
        if ports.len() >= CONTAINER_REGISTRATIONS_MAX && !ports.contains_key(&session) {
            return false;
        }
        ports.insert(session, registered);
        true
    }

    /// The session's port.
    pub fn get(&self, session: &ContainerSessionId) -> Option<Registered> {
        self.ports.read().unwrap_or_else(PoisonError::into_inner).get(session).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(port: u16) -> Registered {
        Registered { port, life: ContainerLife { id: "c".to_owned(), started_at: "t".to_owned() } }
    }

    #[test]
    fn the_last_one_wins_and_there_is_a_bound() {
        let registry = Registry::default();
        let session = |n: usize| ContainerSessionId::parse(format!("s-{n}")).unwrap();
        assert_eq!(registry.get(&session(0)), None);
        for n in 0..CONTAINER_REGISTRATIONS_MAX {
            assert!(registry.put(session(n), registered(3000)));
        }
        assert!(!registry.put(session(CONTAINER_REGISTRATIONS_MAX), registered(3000)));
        assert!(registry.put(session(7), registered(4000)));
        assert_eq!(registry.get(&session(7)), Some(registered(4000)));
        assert_eq!(registry.get(&session(8)), Some(registered(3000)));
    }
}
