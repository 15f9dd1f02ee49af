//! The first frame of either side. Its layout is the same in every version: new fields are
//! appended, and what follows the known ones is ignored.

use bytes::{BufMut as _, BytesMut};
use hawker_model::{HostId, Role};

use super::body::{Body, BodyError, at_most};

/// Who the sender is and what it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version the sender speaks.
    pub min_version: u16,
    /// The newest.
    pub max_version: u16,
    /// Abilities beyond the version ([`hawker_swarm::Abilities`]).
    pub capabilities: u64,
    /// What the sender is.
    pub role: Role,
    /// Who the sender is.
    pub host: HostId,
    /// Whom the sender believes to speak to, when it dialed.
    pub wanted: Option<HostId>,
    /// In which zone the sender is; empty: it does not know. At most [`MAX_ZONE_LEN`] bytes.
    pub zone: String,
}

/// Longest zone, in bytes.
pub(super) const MAX_ZONE_LEN: usize = 128;

impl Hello {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.min_version);
        out.put_u16_le(self.max_version);
        out.put_u64_le(self.capabilities);
        out.put_u8(match self.role {
            Role::Node => 0,
            Role::Seed => 1,
            Role::Scheduler => 2,
        });
        put_name(self.host.as_str(), out);
        put_name(self.wanted.as_ref().map_or("", HostId::as_str), out);
        let end = self.zone.floor_char_boundary(MAX_ZONE_LEN);
        put_name(&self.zone[..end], out);
    }

    pub(super) fn decode(mut body: Body<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            min_version: body.u16()?,
            max_version: body.u16()?,
            capabilities: body.u64()?,
            role: role(body.u8()?)?,
            host: HostId::parse(name(&mut body)?)?,
            wanted: match name(&mut body)? {
                "" => None,
                wanted => Some(HostId::parse(wanted)?),
            },
            zone: zone(&mut body)?,
        })
    }

    /// The version both sides speak, the newest one.
    pub(crate) fn common_version(&self, other: &Self) -> Option<u16> {
        let newest = self.max_version.min(other.max_version);
        (newest >= self.min_version.max(other.min_version)).then_some(newest)
    }
}

fn role(byte: u8) -> Result<Role, BodyError> {
    match byte {
        0 => Ok(Role::Node),
        1 => Ok(Role::Seed),
        2 => Ok(Role::Scheduler),
        other => Err(BodyError::Value {
            what: "role",
            found: other.into(),
        }),
    }
}

/// Names no zone where the sender's version is one that knows none.
fn zone(body: &mut Body<'_>) -> Result<String, BodyError> {
    if body.is_empty() {
        return Ok(String::new());
    }
    let zone = name(body)?;
    at_most("length of a zone", zone.len(), MAX_ZONE_LEN)?;
    match zone.chars().any(char::is_control) {
        true => Err(BodyError::Control),
        false => Ok(zone.to_owned()),
    }
}

/// A host's name has at most 128 bytes ([`HostId`]), and so has a zone.
fn put_name(name: &str, out: &mut BytesMut) {
    out.put_u8(name.len() as u8);
    out.put_slice(name.as_bytes());
}

fn name<'a>(body: &mut Body<'a>) -> Result<&'a str, BodyError> {
    let len = usize::from(body.u8()?);
    std::str::from_utf8(body.bytes(len)?).map_err(|_| BodyError::Text)
}
