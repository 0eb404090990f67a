//! Every closed set of names in the contract (sections 1, 2, 5, 9 to 11). The name on the wire, in the database
//! and in a log line is the same; the SQL check constraints are compared with these lists by a test.

use thiserror::Error;

/// A name that is not in its closed set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{given}` is not a {set}; expected one of {expected}")]
pub struct UnknownName {
    /// What was given, cut to 64 characters.
    pub given: String,
    /// The set's name in the code.
    pub set: &'static str,
    /// The allowed names, comma separated.
    pub expected: String,
}

/// Defines an enum whose variants are names of the contract, with one spelling for wire, database and logs.
macro_rules! names {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum $name {
            $($(#[$vmeta])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// Every member, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the wire, in the database and in logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::contract::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::contract::UnknownName {
                        given: text.chars().take(64).collect(),
                        set: stringify!($name),
                        expected: Self::ALL.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "),
                    }),
                }
            }
        }
    };
}
pub(crate) use names;

names! {
    /// Who asked for a run (section 1).
    TriggerSource {
        /// A person pressed a button.
        Ui = "ui",
        /// A retry of an earlier run.
        Retry = "retry",
        /// A queued follow-up message.
        FollowUpQueue = "follow_up_queue",
        /// A schedule fired.
        Scheduled = "scheduled",
        /// A slash command in a comment.
        SlashCommand = "slash_command",
        /// The host application itself.
        System = "system",
    }
}

names! {
    /// Where a sandbox lives (section 1).
    SandboxProvider {
        /// A container of a Docker engine.
        Docker = "docker",
        /// A Daytona workspace.
        Daytona = "daytona",
        /// An E2B sandbox; it has no previews.
        E2b = "e2b",
        /// A local child process, for development.
        Process = "process",
    }
}

names! {
    /// Where a run stands (section 2).
    RunStatus {
        /// Created; no daemon has spoken yet.
        Booting = "booting",
        /// Its sandbox is bound or its daemon has spoken.
        Running = "running",
        /// Its terminal event is committed; its HEAD is still to be compared.
        Validating = "validating",
        /// Ended, by its own terminal event or because a newer run took its place.
        Finished = "finished",
        /// Ended badly.
        Failed = "failed",
    }
}

impl RunStatus {
    /// Whether the run still counts as the chat's active one: at most one such row exists for a chat.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Booting | Self::Running | Self::Validating)
    }
}

names! {
    /// How a run's own terminal event ended it (sections 2 and 4).
    TerminalKind {
        /// A `result` message without `is_error`.
        Done = "done",
        /// A `result` with `is_error`, or a `custom-error`.
        Failed = "failed",
        /// A `custom-stop`.
        Stopped = "stopped",
    }
}

names! {
    /// Why a daemon event was set aside (sections 2 and 4).
    QuarantineReason {
        /// Strict run, envelope without `runId`.
        MissingRunId = "missing_run_id",
        /// `runId` is not the active one.
        Mismatch = "mismatch",
        /// Legacy run, envelope without `runId`: accepted, and a copy kept.
        LegacyMode = "legacy_mode",
        /// Another payload version than the run's first, or version 2 without usable `eventId` and `seq`.
        PayloadVersionMismatch = "payload_version_mismatch",
        /// A terminal envelope of version 2 without `endSha`.
        MissingEndSha = "missing_end_sha",
        /// A late `seq` that was never stored.
        LateGap = "late_gap",
    }
}

names! {
    /// What a run's changed files are read from (sections 2 and 4).
    DiffSource {
        /// `endSha` equals the sandbox's live HEAD: the commits decide.
        Sha = "sha",
        /// It does not, or HEAD could not be read: the working tree decides.
        WorkingTreeFallback = "working-tree-fallback",
    }
}

names! {
    /// What is known of a chat's user-interface validation (section 2).
    UiValidationOutcome {
        /// No changed file matched a UI rule.
        NotRequired = "not_required",
        /// UI changed; no verdict yet.
        Pending = "pending",
        /// Validated.
        Passed = "passed",
        /// Validated and found broken.
        Failed = "failed",
        /// Could not be decided.
        Inconclusive = "inconclusive",
        /// Blocked until a newer run passes.
        Blocked = "blocked",
    }
}

names! {
    /// Whether a blocked pull request was turned back to draft (section 2).
    ReadyDowngradeState {
        /// Not tried.
        NotAttempted = "not_attempted",
        /// Done.
        ConvertedToDraft = "converted_to_draft",
        /// Tried and failed; may be tried again.
        ConversionFailed = "conversion_failed",
        /// The forge cannot do it.
        NotSupported = "not_supported",
    }
}

names! {
    /// Where a preview session stands (section 5).
    PreviewSessionState {
        /// Asked for.
        Pending = "pending",
        /// The preview command is starting.
        Initializing = "initializing",
        /// Open.
        Ready = "ready",
        /// Cannot be had; see the reason.
        Unsupported = "unsupported",
        /// Its life ended.
        Expired = "expired",
        /// Taken back.
        Revoked = "revoked",
        /// Failed to come up.
        Error = "error",
    }
}

impl PreviewSessionState {
    /// Whether a session in this state may still become or be open.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Initializing | Self::Ready)
    }
}

names! {
    /// Why a preview is unsupported (section 5).
    UnsupportedReason {
        /// No valid preview configuration.
        MissingConfig = "missing_config",
        /// The provider has no preview support.
        AdapterUnimplemented = "adapter_unimplemented",
        /// WebSocket is required and switched off.
        WsRequired = "ws_required",
        /// The page refuses to be framed.
        FrameBust = "frame_bust",
        /// The provider's probe lacks something needed.
        CapabilityMissing = "capability_missing",
        /// The browser refuses our cookie.
        CookieBlocked = "cookie_blocked",
        /// The proxy refused.
        ProxyDenied = "proxy_denied",
    }
}

names! {
    /// How a preview is opened (section 5).
    OpenMode {
        /// Inside the host application's page.
        Iframe = "iframe",
        /// In a tab of its own.
        NewTab = "new_tab",
    }
}

names! {
    /// Where a validation attempt stands (section 2).
    ValidationStatus {
        /// Not started.
        Pending = "pending",
        /// Started.
        Running = "running",
        /// Passed.
        Passed = "passed",
        /// Failed.
        Failed = "failed",
        /// No verdict.
        Inconclusive = "inconclusive",
        /// The sandbox cannot validate.
        Unsupported = "unsupported",
    }
}

names! {
    /// The kinds of evidence that an attempt may leave (section 2).
    ArtifactKind {
        /// `summary.json`.
        Summary = "summary",
        /// Standard output.
        Stdout = "stdout",
        /// Standard error.
        Stderr = "stderr",
        /// `trace.zip`.
        Trace = "trace",
        /// A screenshot.
        Screenshot = "screenshot",
        /// A video.
        Video = "video",
    }
}

names! {
    /// Why access was denied, as security events say it (section 11).
    SecurityReason {
        /// A token or session is past its life.
        Expired = "expired",
        /// Taken back.
        Revoked = "revoked",
        /// A signature does not verify.
        SignatureMismatch = "signature_mismatch",
        /// Signed for something else.
        BindingMismatch = "binding_mismatch",
        /// Not allowed.
        PermissionDenied = "permission_denied",
        /// A single-use token came again.
        TokenReplay = "token_replay",
        /// Too many requests.
        RateLimited = "rate_limited",
        /// The coordination store is out of reach.
        CacheUnavailable = "cache_unavailable",
        /// The address is not allowed.
        ProxySsrfBlocked = "proxy_ssrf_blocked",
        /// The path is not allowed.
        ProxyPathDenied = "proxy_path_denied",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_on_the_wire_and_in_the_database() {
        for reason in QuarantineReason::ALL {
            let json = serde_json::to_string(reason).unwrap();
            assert_eq!(json, format!("\"{}\"", reason.as_str()));
            assert_eq!(reason.as_str().parse::<QuarantineReason>().unwrap(), *reason);
        }
    }

    #[test]
    fn an_unknown_name_says_what_would_be_right() {
        let error = "cron".parse::<TriggerSource>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`cron` is not a TriggerSource; expected one of ui, retry, follow_up_queue, scheduled, slash_command, system"
        );
    }

    #[test]
    fn only_three_statuses_are_active() {
        let active: Vec<_> = RunStatus::ALL.iter().filter(|status| status.is_active()).collect();
        assert_eq!(active, [&RunStatus::Booting, &RunStatus::Running, &RunStatus::Validating]);
    }
}
