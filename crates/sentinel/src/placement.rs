//! Who is to hold a new partition: the [`Ring`] of the live brokers says.

mod leads;
pub(crate) mod ring;

pub(crate) use leads::Leads;
pub(crate) use ring::{Load, Member, Ring};
