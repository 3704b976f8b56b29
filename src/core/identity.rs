//! Who a peer is: the URI in its certificate, and the parts of that URI (wire.md §1).
//!
//! Parsing here is the only way to these types, so whoever holds an [`AgentUri`] holds a well-formed one. Texts are kept
//! byte for byte: two URIs are equal when their texts are, as the rules and the wire compare them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "outrelay://";
const LABEL_MAX_BYTES: usize = 63;
const SHOWN_MAX_CHARS: usize = 128;

/// Which rule of wire.md §1 an identity breaks. The offending text is shown escaped and shortened to 128 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The certificate names no URI at all.
    #[error("the certificate has no URI subject alternative name")]
    NoUri,
    /// The certificate names more than one URI, so it is not clear who the peer is.
    #[error("the certificate has several URI subject alternative names: {0:?} and {1:?}")]
    SeveralUris(String, String),
    /// The text does not start with `outrelay://`.
    #[error("{0:?} does not have the scheme outrelay://")]
    Scheme(String),
    /// The text is not made of exactly three segments.
    #[error("{0:?} is not outrelay://<tenant>/agent/<uuid> or outrelay://<region>/relay/<relay-id>")]
    Segments(String),
    /// The segment in the middle is neither `agent` nor `relay`.
    #[error("{0:?} names a role that is neither agent nor relay")]
    Role(String),
    /// A well-formed identity, but of the other role.
    #[error("{text:?} is not the identity of {wanted}")]
    WrongRole {
        /// What was asked for: "an agent" or "a relay".
        wanted: &'static str,
        /// The whole URI.
        text: String,
    },
    /// A tenant, region or relay id does not match `[a-z0-9][a-z0-9-]{0,62}`.
    #[error("the {part} {text:?} does not match [a-z0-9][a-z0-9-]{{0,62}}")]
    Label {
        /// "tenant", "region" or "relay id".
        part: &'static str,
        /// The label as given.
        text: String,
    },
    /// The last segment of an agent's URI is not a UUID in the text form of RFC 9562 (8-4-4-4-12 hexadecimal digits).
    #[error("{0:?} is not a UUID")]
    Uuid(String),
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn check_label(part: &'static str, text: &str) -> Result<(), IdentityError> {
    let bytes = text.as_bytes();
    let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let starts_well = bytes.first().is_some_and(|first| *first != b'-');
    if starts_well && bytes.len() <= LABEL_MAX_BYTES && bytes.iter().all(allowed) {
        return Ok(());
    }
    Err(IdentityError::Label { part, text: shown(text) })
}

fn check_uuid(text: &str) -> Result<(), IdentityError> {
    let well_formed = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if well_formed { Ok(()) } else { Err(IdentityError::Uuid(shown(text))) }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $part:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The label itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, IdentityError> {
                check_label($part, text)?;
                Ok(Self(text.into()))
            }
        }

        text_traits!($name);
    };
}

macro_rules! text_traits {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), self.as_str())
            }
        }

        // Sound because equality, order and hash are those of the text.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
    };
}

// A URI's text decides everything about it; its parts are kept only to save parsing again.
macro_rules! by_text {
    ($name:ident) => {
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.text == other.text
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.text.cmp(&other.text)
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.text.hash(state);
            }
        }

        text_traits!($name);
    };
}

label!(
    /// The scope in which agents, services, rules and stream ids live; `[a-z0-9][a-z0-9-]{0,62}` (wire.md §1).
    Tenant,
    "tenant"
);
label!(
    /// Where a relay stands; `[a-z0-9][a-z0-9-]{0,62}` (wire.md §1).
    Region,
    "region"
);
label!(
    /// A relay's own name; `[a-z0-9][a-z0-9-]{0,62}` (wire.md §1).
    RelayId,
    "relay id"
);

/// `outrelay://<tenant>/agent/<uuid>`. Cheap to clone; compared by its text.
#[derive(Clone)]
pub struct AgentUri {
    text: Arc<str>,
    tenant: Tenant,
}

impl AgentUri {
    /// The agent `uuid` of `tenant`.
    ///
    /// # Errors
    /// [`IdentityError::Uuid`] when `uuid` is not a UUID in text form.
    pub fn new(tenant: &Tenant, uuid: &str) -> Result<Self, IdentityError> {
        check_uuid(uuid)?;
        Ok(Self { text: format!("{SCHEME}{tenant}/agent/{uuid}").into(), tenant: tenant.clone() })
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The tenant that the agent belongs to.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The last segment, in the case in which it was written.
    #[must_use]
    pub fn uuid(&self) -> &str {
        last_segment(&self.text)
    }
}

by_text!(AgentUri);

/// `outrelay://<region>/relay/<relay-id>`. Cheap to clone; compared by its text.
#[derive(Clone)]
pub struct RelayUri {
    text: Arc<str>,
    region: Region,
    id: RelayId,
}

impl RelayUri {
    /// The relay `id` in `region`.
    #[must_use]
    pub fn new(region: &Region, id: &RelayId) -> Self {
        Self { text: format!("{SCHEME}{region}/relay/{id}").into(), region: region.clone(), id: id.clone() }
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where the relay stands.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The relay's own name.
    #[must_use]
    pub fn id(&self) -> &RelayId {
        &self.id
    }
}

by_text!(RelayUri);

fn last_segment(uri: &str) -> &str {
    uri.rsplit_once('/').map_or("", |(_, last)| last)
}

/// What a certificate says its holder is. The role decides how the connection is served (wire.md §1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A consumer or provider of services.
    Agent(AgentUri),
    /// A relay of the deployment.
    Relay(RelayUri),
}

impl Identity {
    /// The identity among a certificate's URI subject alternative names: there must be exactly one, and it must be ours.
    ///
    /// # Errors
    /// The rule of wire.md §1 that the names break.
    pub fn from_uri_sans<'a>(uris: impl IntoIterator<Item = &'a str>) -> Result<Self, IdentityError> {
        let mut uris = uris.into_iter();
        let only = uris.next().ok_or(IdentityError::NoUri)?;
        match uris.next() {
            Some(second) => Err(IdentityError::SeveralUris(shown(only), shown(second))),
            None => only.parse(),
        }
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Agent(uri) => uri.as_str(),
            Self::Relay(uri) => uri.as_str(),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let path = text.strip_prefix(SCHEME).ok_or_else(|| IdentityError::Scheme(shown(text)))?;
        let mut segments = path.split('/');
        let (Some(scope), Some(role), Some(name), None) =
            (segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(IdentityError::Segments(shown(text)));
        };
        match role {
            "agent" => {
                let tenant = scope.parse()?;
                check_uuid(name)?;
                let text = text.into();
                Ok(Self::Agent(AgentUri { text, tenant }))
            }
            "relay" => Ok(Self::Relay(RelayUri { region: scope.parse()?, id: name.parse()?, text: text.into() })),
            _ => Err(IdentityError::Role(shown(text))),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for AgentUri {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match text.parse()? {
            Identity::Agent(uri) => Ok(uri),
            Identity::Relay(_) => Err(wrong_role("an agent", text)),
        }
    }
}

impl FromStr for RelayUri {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match text.parse()? {
            Identity::Relay(uri) => Ok(uri),
            Identity::Agent(_) => Err(wrong_role("a relay", text)),
        }
    }
}

fn wrong_role(wanted: &'static str, text: &str) -> IdentityError {
    IdentityError::WrongRole { wanted, text: shown(text) }
}

#[cfg(test)]
mod tests;
