//! Small identifiers that travel on the wire or fence what lives in the vault, each its own type.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const SERVICE_NAME_MAX_BYTES: usize = 255;
const CALLER_SCHEME: &str = "outrelay:";

/// Why a text is not a service name (wire.md §2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceNameError {
    /// The empty text.
    #[error("the service name is empty")]
    Empty,
    /// Longer than 255 bytes.
    #[error("the service name has {bytes} bytes, at most {SERVICE_NAME_MAX_BYTES} are allowed")]
    TooLong {
        /// The length of the text.
        bytes: usize,
    },
    /// It looks like an agent's URI, and would match rules that were written for callers.
    #[error("the service name starts with {CALLER_SCHEME}")]
    LooksLikeCaller,
    /// A character outside `[A-Za-z0-9._/-]`.
    #[error("the service name holds {character:?}, only A-Z a-z 0-9 . _ / - are allowed")]
    Character {
        /// The first such character.
        character: char,
    },
}

/// The name under which an agent offers a service: `[A-Za-z0-9._/-]{1,255}` (wire.md §2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(text: &str) -> Result<Self, ServiceNameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-');
        if text.is_empty() {
            return Err(ServiceNameError::Empty);
        }
        if text.len() > SERVICE_NAME_MAX_BYTES {
            return Err(ServiceNameError::TooLong { bytes: text.len() });
        }
        // The colon is not allowed anyway; this says why to the one who tried.
        if text.starts_with(CALLER_SCHEME) {
            return Err(ServiceNameError::LooksLikeCaller);
        }
        match text.chars().find(|c| !allowed(*c)) {
            Some(character) => Err(ServiceNameError::Character { character }),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceName({:?})", self.as_str())
    }
}

// Sound because equality, order and hash are those of the text.
impl Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// The consumer's number for a stream; with the tenant it is the key of the stream index (wire.md §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId(pub u64);

impl StreamId {
    /// Whether the stream is kept in the index. Id 0 means "not resumable": never recorded, never collides.
    #[must_use]
    pub fn is_recorded(self) -> bool {
        self.0 != 0
    }
}

/// As a text: not every reader of JSON has 64 bits.
impl Serialize for StreamId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which of an agent's connections: a later connection has the greater number, so that the end of an old one is told
/// from the end of the one that replaced it (wire.md §3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

macro_rules! capabilities {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// An extension of the wire that both sides must have named before it is used (wire.md §9).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Capability {
            $($(#[$doc])* $variant,)*
        }

        impl Capability {
            /// Every capability, in the order of wire.md §9.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in HELLO.capabilities and HELLO_ACK.accepted_features.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The capability with this name, if this program knows it.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

capabilities! {
    /// GOAWAY: the relay drains and names successors.
    GoAway = "goaway",
    /// Every STREAM_REJECT is mirrored on the control stream.
    RejectCtrl = "reject-ctrl",
    /// MIGRATE_TO_RELAY halves are echoed like STREAM_RESUME halves.
    ResumeEcho = "resume-echo",
    /// The reset codes of [`ResetCode`](crate::core::reject::ResetCode).
    ResumeCode = "resume-code",
    /// `fin_sent` and `fin_consumed` in STREAM_CHECKPOINT and STREAM_RESUME.
    FinState = "fin-state",
    /// RESUME_WANTED: the partner's half is parked.
    ResumeCall = "resume-call",
    /// Sealed tickets that prove a stream to a relay that never saw it.
    ResumeTicket = "resume-ticket",
    /// STREAM_READY tells what the agent at the other end named.
    PeerCaps = "peer-caps",
    /// STREAM_END on the TCP carrier.
    StreamEnd = "stream-end",
    /// A token in ALLOC_GRANTED that the registration datagram carries.
    ForwardToken = "forward-token",
    /// FORWARD_RESUME: fresh allocations for a stream in forward mode.
    ForwardResume = "forward-resume",
    /// DEREGISTER: a single service is withdrawn.
    Deregister = "deregister",
    /// UDP services.
    Datagrams = "datagrams",
}

/// A set of [`Capability`]. Names that this program does not know are left out when it is read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(u16);

impl Capabilities {
    /// The set of those names that are known.
    pub fn from_names<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        let known = |name: S| Capability::from_name(name.as_ref());
        names.into_iter().filter_map(known).collect()
    }

    /// The members, in the order of wire.md §9.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        let member = move |capability: &Capability| self.contains(*capability);
        Capability::ALL.iter().copied().filter(member)
    }

    /// The members' names as HELLO and HELLO_ACK carry them.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        self.iter().map(|member| member.name().to_owned()).collect()
    }

    /// Whether `capability` is in the set.
    #[must_use]
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & bit(capability) != 0
    }

    /// What both sets hold: what two sides may use between them.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Adds `capability`.
    pub fn insert(&mut self, capability: Capability) {
        self.0 |= bit(capability);
    }

    /// Whether nothing is in the set, as for every legacy peer.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn bit(capability: Capability) -> u16 {
    1 << (capability as u16)
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(members: I) -> Self {
        let mut set = Self::default();
        members.into_iter().for_each(|member| set.insert(member));
        set
    }
}

/// Names separated by commas.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, member) in self.iter().enumerate() {
            let separator = if at == 0 { "" } else { "," };
            write!(f, "{separator}{}", member.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capabilities({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_has_1_to_255_plain_characters() {
        let longest = "a".repeat(255);
        for good in ["a", "svc-1.v2_x/y", "/", "-", "A.Z", longest.as_str()] {
            assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn every_other_name_is_refused_by_the_rule_it_breaks() {
        let error = |name: &str| name.parse::<ServiceName>().unwrap_err();
        let character = |character| ServiceNameError::Character { character };
        assert_eq!(error(""), ServiceNameError::Empty);
        let bytes = 256;
        assert_eq!(error(&"a".repeat(bytes)), ServiceNameError::TooLong { bytes });
        assert_eq!(error("outrelay://acme/agent/x"), ServiceNameError::LooksLikeCaller);
        for bad in [' ', '*', ':', '\0', '\n', 'é', '%'] {
            assert_eq!(error(&format!("svc{bad}x")), character(bad));
        }
        assert_eq!(error("x-outrelay:"), character(':'));
    }

    #[test]
    fn stream_id_0_is_never_recorded() {
        assert!(!StreamId(0).is_recorded());
        assert!(StreamId(1).is_recorded() && StreamId(u64::MAX).is_recorded());
    }

    #[test]
    fn every_capability_has_its_own_name_and_its_own_bit() {
        let mut set = Capabilities::default();
        for capability in Capability::ALL {
            assert_eq!(Capability::from_name(capability.name()), Some(*capability));
            assert!(!set.contains(*capability));
            set.insert(*capability);
            assert!(set.contains(*capability));
        }
        assert_eq!(set.iter().count(), 13);
        assert_eq!(Capabilities::from_names(set.names()), set);
    }

    #[test]
    fn capabilities_are_named_as_on_the_wire() {
        let names = "goaway,reject-ctrl,resume-echo,resume-code,fin-state,resume-call,resume-ticket,\
                     peer-caps,stream-end,forward-token,forward-resume,deregister,datagrams";
        let all = Capabilities::from_iter(Capability::ALL.iter().copied());
        assert_eq!(all.to_string(), names);
    }

    #[test]
    fn unknown_names_are_left_out_and_only_common_ones_are_shared() {
        let one = Capabilities::from_names(["goaway", "new-thing", "fin-state", "GOAWAY", ""]);
        let other = Capabilities::from_names(["fin-state", "datagrams"]);
        assert_eq!(one.names(), ["goaway", "fin-state"]);
        assert_eq!(one.intersection(other).to_string(), "fin-state");
        assert!(one.intersection(Capabilities::default()).is_empty());
    }
}
