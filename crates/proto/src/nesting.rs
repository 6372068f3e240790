//! `RequestOp` and `ResponseOp` of etcd's interface, by hand: transactions that hold transactions.
//!
//! etcd bounds how deep they nest by their operations (128 unless told otherwise), while [`prost`] refuses any message
//! after a hundred levels, which is 49 transactions. Here each transaction within another is read afresh, and this module
//! counts the levels instead. Past [`NESTED_MAX`] nothing is kept, so that no bytes from the network can exhaust the stack.

use std::cell::Cell;

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut, Bytes},
    encoding::{DecodeContext, WireType, check_wire_type, decode_varint, skip_field},
};

use super::etcd::etcdserverpb::{Compare, TxnRequest, TxnResponse};

/// How many transactions deep a transaction is read. What lies deeper is replaced by a comparison without a key, which
/// every check refuses; with etcd's bound of 128 operations the one above it has none left for it anyway.
pub const NESTED_MAX: usize = 128;

/// The tag of a transaction within `RequestOp` and `ResponseOp`.
const TXN: u32 = 4;

/// One operation of a transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestOp {
    /// What is asked; `None` if this is nothing that we know.
    pub request: Option<request_op::Request>,
}

/// The kinds of [`RequestOp`].
pub mod request_op {
    use crate::etcd::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};

    /// What an operation asks for.
    #[derive(Clone, PartialEq, prost::Oneof)]
    #[expect(missing_docs, reason = "as in the .proto file")]
    pub enum Request {
        #[prost(message, tag = "1")]
        RequestRange(RangeRequest),
        #[prost(message, tag = "2")]
        RequestPut(PutRequest),
        #[prost(message, tag = "3")]
        RequestDeleteRange(DeleteRangeRequest),
        #[prost(message, tag = "4")]
        RequestTxn(TxnRequest),
    }
}

/// The answer to one operation of a transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseOp {
    /// The answer; `None` if this is nothing that we know.
    pub response: Option<response_op::Response>,
}

/// The kinds of [`ResponseOp`].
pub mod response_op {
    use crate::etcd::etcdserverpb::{DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse};

    /// What an operation is answered with.
    #[derive(Clone, PartialEq, prost::Oneof)]
    #[expect(missing_docs, reason = "as in the .proto file")]
    pub enum Response {
        #[prost(message, tag = "1")]
        ResponseRange(RangeResponse),
        #[prost(message, tag = "2")]
        ResponsePut(PutResponse),
        #[prost(message, tag = "3")]
        ResponseDeleteRange(DeleteRangeResponse),
        #[prost(message, tag = "4")]
        ResponseTxn(TxnResponse),
    }
}

impl Message for RequestOp {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if let Some(request) = &self.request {
            request.encode(buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            TXN => {
                let bytes = delimited(wire_type, buf)?;
                let mut txn = match self.request.take() {
                    Some(request_op::Request::RequestTxn(txn)) => txn,
                    _ => TxnRequest::default(),
                };
                match Level::enter() {
                    Some(_level) => txn.merge(bytes)?,
                    None => txn.compare = vec![Compare::default()],
                }
                self.request = Some(request_op::Request::RequestTxn(txn));
                Ok(())
            }
            1..TXN => request_op::Request::merge(&mut self.request, tag, wire_type, buf, ctx),
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        self.request.as_ref().map_or(0, request_op::Request::encoded_len)
    }

    fn clear(&mut self) {
        self.request = None;
    }
}

impl Message for ResponseOp {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if let Some(response) = &self.response {
            response.encode(buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            TXN => {
                let bytes = delimited(wire_type, buf)?;
                let mut txn = match self.response.take() {
                    Some(response_op::Response::ResponseTxn(txn)) => txn,
                    _ => TxnResponse::default(),
                };
                let _level = Level::enter().ok_or_else(too_deep)?;
                txn.merge(bytes)?;
                self.response = Some(response_op::Response::ResponseTxn(txn));
                Ok(())
            }
            1..TXN => response_op::Response::merge(&mut self.response, tag, wire_type, buf, ctx),
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        self.response.as_ref().map_or(0, response_op::Response::encoded_len)
    }

    fn clear(&mut self) {
        self.response = None;
    }
}

#[expect(deprecated, reason = "the only way to make an error for a message read by hand")]
fn error(description: &'static str) -> DecodeError {
    DecodeError::new(description)
}

fn too_deep() -> DecodeError {
    error("transactions nest too deep")
}

/// The bytes of a field that holds a message.
fn delimited(wire_type: WireType, buf: &mut impl Buf) -> Result<Bytes, DecodeError> {
    check_wire_type(WireType::LengthDelimited, wire_type)?;
    let length = decode_varint(buf)?;
    match usize::try_from(length) {
        Ok(length) if length <= buf.remaining() => Ok(buf.copy_to_bytes(length)),
        _ => Err(error("buffer underflow")),
    }
}

/// One transaction within another that is being read by this thread.
struct Level;

thread_local! {
    static LEVELS: Cell<usize> = const { Cell::new(0) };
}

impl Level {
    /// `None` where the next level is one too many.
    fn enter() -> Option<Self> {
        LEVELS.with(|levels| {
            let level = levels.get() + 1;
            (level <= NESTED_MAX).then(|| levels.set(level))?;
            Some(Self)
        })
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        LEVELS.with(|levels| levels.set(levels.get() - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::etcdserverpb::{PutRequest, PutResponse};

    /// A transaction `depth` levels below the outermost one, around one put.
    fn nested(depth: usize) -> TxnRequest {
        let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let mut request = request_op::Request::RequestPut(put);
        for _ in 0..depth {
            let op = RequestOp { request: Some(request) };
            request = request_op::Request::RequestTxn(TxnRequest { success: vec![op], ..Default::default() });
        }
        TxnRequest { success: vec![RequestOp { request: Some(request) }], ..Default::default() }
    }

    #[test]
    fn transactions_within_transactions_read_back() {
        for depth in [0, 1, 48, 49, 50, 100, NESTED_MAX] {
            let request = nested(depth);
            assert_eq!(TxnRequest::decode(Bytes::from(request.encode_to_vec())), Ok(request), "{depth} levels");
        }
    }

    #[test]
    fn what_nests_too_deep_cannot_pass_a_check() {
        for depth in [NESTED_MAX + 1, 10_000] {
            let mut request = TxnRequest::decode(Bytes::from(bomb(depth))).unwrap();
            for _ in 0..=NESTED_MAX {
                let Some(request_op::Request::RequestTxn(inner)) = request.success[0].request.clone() else {
                    panic!("a level is missing");
                };
                request = inner;
            }
            assert_eq!(request, TxnRequest { compare: vec![Compare::default()], ..Default::default() });
        }
        // The levels are counted down again.
        assert!(TxnRequest::decode(Bytes::from(nested(NESTED_MAX).encode_to_vec())).is_ok());
    }

    /// The encoding of `nested(depth)` without a put, made from within, so that it needs no stack.
    fn bomb(depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let wrap = |tag: u8, bytes: Vec<u8>| {
            let mut out = vec![tag << 3 | 2];
            prost::encoding::encode_varint(bytes.len() as u64, &mut out);
            out.extend(bytes);
            out
        };
        for _ in 0..depth {
            bytes = wrap(2, wrap(4, bytes));
        }
        bytes
    }

    #[test]
    fn answers_nest_as_deep_and_no_deeper() {
        let answer = |depth| {
            let mut response = response_op::Response::ResponsePut(PutResponse::default());
            for _ in 0..depth {
                let op = ResponseOp { response: Some(response) };
                response =
                    response_op::Response::ResponseTxn(TxnResponse { responses: vec![op], ..Default::default() });
            }
            TxnResponse { responses: vec![ResponseOp { response: Some(response) }], ..Default::default() }
        };
        let deep = answer(NESTED_MAX);
        assert_eq!(TxnResponse::decode(Bytes::from(deep.encode_to_vec())), Ok(deep));
        assert!(TxnResponse::decode(Bytes::from(answer(NESTED_MAX + 1).encode_to_vec())).is_err());
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let bytes = nested(3).encode_to_vec();
        for cut in 1..bytes.len() {
            assert!(TxnRequest::decode(&bytes[..cut]).is_err(), "{cut} of {} bytes", bytes.len());
        }
        // A transaction that is a number, and one longer than all.
        assert!(TxnRequest::decode(&[0x12, 0x02, 0x20, 0x01][..]).is_err());
        assert!(TxnRequest::decode(&[0x12, 0x02, 0x22, 0x7f][..]).is_err());
    }
}
