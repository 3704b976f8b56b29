//! Every reason for which a half is not joined, with what its agent is told.

use std::fmt;

use crate::core::reject::{Reject, RejectCode, ResetCode};
use crate::core::ticket::TicketError;

/// Why a half is refused or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// Stream id 0 is not resumable.
    NoStreamId,
    /// The half is of another stream than those it was put beside.
    OtherStream,
    /// The agent belongs to another tenant than the stream.
    OtherTenant,
    /// The stream is between two other agents.
    NotAParty,
    /// Nothing shows that the two are the stream's agents, and `resume.allow_unproven` is off.
    Unproven,
    /// Nothing shows it, and no rule allows a stream between them.
    NoRule,
    /// One half acknowledges more than the other has written.
    PositionsDoNotFit,
    /// The same agent sent a newer half.
    Replaced,
    /// The partner did not come.
    WindowOver,
    /// The partner does not have the stream any more.
    PartnerGone,
    /// The half came with a ticket that is worth nothing.
    Ticket(TicketError),
    /// A ticket shows whose stream it is, but the rules do not allow it any more.
    RulesDeny,
    /// The relay does not know the stream, and its rules are too old to ask.
    RulesTooOld,
    /// The relay carries as many streams as it may, and this one is new to it.
    Limit,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: &[Self] = &[
        Self::NoStreamId,
        Self::OtherStream,
        Self::OtherTenant,
        Self::NotAParty,
        Self::Unproven,
        Self::NoRule,
        Self::PositionsDoNotFit,
        Self::Replaced,
        Self::WindowOver,
        Self::PartnerGone,
        Self::Ticket(TicketError::Truncated),
        Self::Ticket(TicketError::UnknownVersion),
        Self::Ticket(TicketError::UnknownKey),
        Self::Ticket(TicketError::Forged),
        Self::Ticket(TicketError::BadContent),
        Self::Ticket(TicketError::NotYetValid),
        Self::Ticket(TicketError::Expired),
        Self::Ticket(TicketError::OtherStream),
        Self::Ticket(TicketError::OtherTenant),
        Self::Ticket(TicketError::NotAParty),
        Self::RulesDeny,
        Self::RulesTooOld,
        Self::Limit,
    ];

    /// Why, for the person who reads the agent's log.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoStreamId => "a stream with id 0 cannot be resumed",
            Self::OtherStream => "the half is of another stream",
            Self::OtherTenant => "the stream is of another tenant",
            Self::NotAParty => "the stream is between other agents",
            Self::Unproven => "nothing shows that the two agents are those of the stream",
            Self::NoRule => "the stream is not known here, and no rule allows one between the two agents",
            Self::PositionsDoNotFit => "one half acknowledges more than the other has written",
            Self::Replaced => "a newer half of the same agent has come",
            Self::WindowOver => "the partner did not come in time",
            Self::PartnerGone => "the partner does not have the stream any more",
            Self::Ticket(error) => error.reason(),
            Self::RulesDeny => "the rules do not allow the stream any more",
            Self::RulesTooOld => "the rules in force are too old, and newer ones cannot be used",
            Self::Limit => "the relay carries as many streams as it may",
        }
    }

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoStreamId => "no_stream_id",
            Self::OtherStream => "other_stream",
            Self::OtherTenant => "other_tenant",
            Self::NotAParty => "not_a_party",
            Self::Unproven => "unproven",
            Self::NoRule => "no_rule",
            Self::PositionsDoNotFit => "positions_do_not_fit",
            Self::Replaced => "replaced",
            Self::WindowOver => "window_over",
            Self::PartnerGone => "partner_gone",
            Self::Ticket(error) => error.name(),
            Self::RulesDeny => "rules_deny",
            Self::RulesTooOld => "rules_too_old",
            Self::Limit => "limit",
        }
    }

    /// As a refusal with a code, for the audit.
    #[must_use]
    pub fn reject(self) -> Reject {
        let code = match self {
            Self::NoStreamId | Self::OtherStream => RejectCode::BadRequest,
            Self::OtherTenant
            | Self::NotAParty
            | Self::Unproven
            | Self::NoRule
            | Self::Ticket(_)
            | Self::RulesDeny
            | Self::RulesTooOld => RejectCode::Denied,
            Self::PositionsDoNotFit | Self::Replaced => RejectCode::Conflict,
            Self::WindowOver | Self::PartnerGone => RejectCode::Gone,
            Self::Limit => RejectCode::Limit,
        };
        Reject::new(code, self.reason())
    }

    /// With what the half's stream is reset. RESUMABLE where an older half, late in the network, may be the cause: an agent
    /// whose latest half meets with that sends another, for as long as the window allows.
    #[must_use]
    pub fn reset(self) -> ResetCode {
        match self {
            Self::NoStreamId | Self::OtherStream => ResetCode::PROTOCOL,
            Self::OtherTenant | Self::NotAParty | Self::Unproven | Self::NoRule | Self::Ticket(_) | Self::RulesDeny => {
                ResetCode::DENIED
            }
            Self::PositionsDoNotFit | Self::Replaced => ResetCode::RESUMABLE,
            Self::WindowOver | Self::PartnerGone => ResetCode::NOT_RESUMABLE,
            // The agent comes again, and not often.
            Self::RulesTooOld | Self::Limit => ResetCode::LIMIT,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}
