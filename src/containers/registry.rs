//! Who has registered which port (section 8): in memory, the last one wins, forgotten with the process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use runwarden_actors::contract::limits::{CONTAINER_REGISTRATIONS_MAX, NAMED_PORTS_MAX};
use runwarden_actors::contract::{ContainerSessionId, PortName};

use crate::sandbox::ContainerLife;

/// A registered port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// TCP port inside of the container.
    pub port: u16,
    /// The container that was seen to run when it was registered.
    pub life: ContainerLife,
}

/// The ports of one session: the one that section 8 knows has no name.
type Ports = BTreeMap<Option<PortName>, Registered>;

/// At most [`CONTAINER_REGISTRATIONS_MAX`] sessions with [`NAMED_PORTS_MAX`] named ports each.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: RwLock<HashMap<ContainerSessionId, Ports>>,
}

impl Registry {
    /// Registers a port, over the one before; `false` where there are too many.
    pub fn put(&self, session: &ContainerSessionId, name: Option<&PortName>, registered: Registered) -> bool {
        let mut sessions = self.write();
        if sessions.len() >= CONTAINER_REGISTRATIONS_MAX && !sessions.contains_key(session) {
            return false;
        }
        let ports = sessions.entry(session.clone()).or_default();
        let key = name.cloned();
        let named = ports.keys().filter(|key| key.is_some()).count();
        if key.is_some() && named >= NAMED_PORTS_MAX && !ports.contains_key(&key) {
            return false;
        }
        ports.insert(key, registered);
        true
    }

    /// A registered port.
    pub fn get(&self, session: &ContainerSessionId, name: Option<&PortName>) -> Option<Registered> {
        self.read().get(session)?.get(&name.cloned()).cloned()
    }

    /// Removes a port; whether there was one.
    pub fn remove(&self, session: &ContainerSessionId, name: Option<&PortName>) -> bool {
        let mut sessions = self.write();
        let Some(ports) = sessions.get_mut(session) else { return false };
        let removed = ports.remove(&name.cloned()).is_some();
        if ports.is_empty() {
            sessions.remove(session);
        }
        removed
    }

    /// Keeps only those ports of a session whose container is `life`; how many are gone.
    pub fn keep_only(&self, session: &ContainerSessionId, life: Option<&ContainerLife>) -> usize {
        let mut sessions = self.write();
        let Some(ports) = sessions.get_mut(session) else { return 0 };
        let before = ports.len();
        ports.retain(|_, registered| Some(&registered.life) == life);
        let gone = before - ports.len();
        if ports.is_empty() {
            sessions.remove(session);
        }
        gone
    }

    /// Every session that has registered a port.
    pub fn sessions(&self) -> Vec<ContainerSessionId> {
        self.read().keys().cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<ContainerSessionId, Ports>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<ContainerSessionId, Ports>> {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(started_at: &str) -> ContainerLife {
        ContainerLife { id: "c".to_owned(), started_at: started_at.to_owned() }
    }

    fn registered(port: u16) -> Registered {
        Registered { port, life: life("t") }
    }

    fn session(n: usize) -> ContainerSessionId {
        ContainerSessionId::parse(format!("s-{n}")).unwrap()
    }

    #[test]
    fn the_last_one_wins_and_there_is_a_bound() {
        let registry = Registry::default();
        assert_eq!(registry.get(&session(0), None), None);
        for n in 0..CONTAINER_REGISTRATIONS_MAX {
            assert!(registry.put(&session(n), None, registered(3000)));
        }
        assert!(!registry.put(&session(CONTAINER_REGISTRATIONS_MAX), None, registered(3000)));
        assert!(registry.put(&session(7), None, registered(4000)));
        assert_eq!(registry.get(&session(7), None), Some(registered(4000)));
        assert_eq!(registry.get(&session(8), None), Some(registered(3000)));
        assert!(registry.remove(&session(7), None) && !registry.remove(&session(7), None));
        assert!(registry.put(&session(CONTAINER_REGISTRATIONS_MAX), None, registered(3000)));
    }

    #[test]
    fn named_ports_stand_beside_the_one_without_a_name() {
        let registry = Registry::default();
        let name = |n: usize| PortName::parse(format!("p-{n}")).unwrap();
        assert!(registry.put(&session(0), None, registered(3000)));
        for n in 0..NAMED_PORTS_MAX {
            assert!(registry.put(&session(0), Some(&name(n)), registered(4000)));
        }
        assert!(!registry.put(&session(0), Some(&name(NAMED_PORTS_MAX)), registered(4000)));
        assert!(registry.put(&session(0), Some(&name(1)), registered(5000)));
        assert!(registry.put(&session(0), None, registered(3001)));
        assert_eq!(registry.get(&session(0), Some(&name(1))), Some(registered(5000)));
        assert!(registry.remove(&session(0), None));
        assert_eq!(registry.get(&session(0), Some(&name(2))), Some(registered(4000)));
    }

    #[test]
    fn what_belongs_to_another_life_goes() {
        let registry = Registry::default();
        registry.put(&session(0), None, registered(3000));
        registry.put(&session(0), PortName::parse("api").ok().as_ref(), Registered { port: 4000, life: life("later") });
        assert_eq!(registry.keep_only(&session(0), Some(&life("later"))), 1);
        assert_eq!(registry.get(&session(0), None), None);
        assert_eq!(registry.keep_only(&session(0), None), 1);
        assert!(registry.sessions().is_empty());
    }
}
