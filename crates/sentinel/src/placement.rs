//! Who is to hold a new partition: the [`Ring`](ring::Ring) of the live brokers says.

pub(crate) mod ring;

pub(crate) use ring::{Load, Member, Ring};
