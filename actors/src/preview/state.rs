//! The listed transitions of a session, and nothing else (section 5).

use crate::contract::PreviewSessionState as State;

/// From, to. A session that is closed before it came up goes through `initializing` to `error`.
pub const TRANSITIONS: &[(State, State)] = &[
    (State::Pending, State::Initializing),
    (State::Initializing, State::Ready),
    (State::Initializing, State::Unsupported),
    (State::Initializing, State::Error),
    (State::Ready, State::Expired),
    (State::Ready, State::Revoked),
];

/// Whether the contract lists the transition.
pub fn is_listed(from: State, to: State) -> bool {
    TRANSITIONS.contains(&(from, to))
}

/// The states that lead to `to`.
pub fn sources_of(to: State) -> impl Iterator<Item = State> {
    TRANSITIONS.iter().filter(move |(_, target)| *target == to).map(|(from, _)| *from)
}

/// The states passed on the way from `from` to `to`, `to` included: each is an event of its own.
pub(super) fn steps(from: State, to: State) -> Vec<State> {
    match (from, to) {
        (State::Pending, State::Error) => vec![State::Initializing, State::Error],
        (from, to) if from == to => Vec::new(),
        (_, to) => vec![to],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Typed in again from the contract.
    #[test]
    fn only_the_listed_transitions_exist() {
        let listed = "pending initializing, initializing ready, initializing unsupported, initializing error, \
                      ready expired, ready revoked";
        let listed: Vec<(State, State)> = listed
            .split(", ")
            .map(|pair| pair.trim().split_once(' ').unwrap())
            .map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap()))
            .collect();
        for from in State::ALL {
            for to in State::ALL {
                assert_eq!(is_listed(*from, *to), listed.contains(&(*from, *to)), "{from} -> {to}");
            }
        }
        assert_eq!(sources_of(State::Error).collect::<Vec<_>>(), [State::Initializing]);
    }

    #[test]
    fn every_step_of_a_closing_is_listed() {
        for (from, to) in
            [(State::Pending, State::Error), (State::Initializing, State::Error), (State::Ready, State::Revoked)]
        {
            let mut at = from;
            for step in steps(from, to) {
                assert!(is_listed(at, step), "{at} -> {step}");
                at = step;
            }
            assert_eq!(at, to);
        }
    }
}
