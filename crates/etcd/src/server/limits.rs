//! What a message that exceeds the limit is answered: our library's refusal in the words that etcd's clients know.

use axum::response::Response;
use tonic::{Code, Status, body::Body};

/// How our library begins: code `OUT_OF_RANGE`, which to etcd's clients is a revision that is gone.
const TOO_LARGE: &str = "Error, decoded message length too large: found ";

/// Puts a refusal of a message's size into etcd's words; leaves anything else as it is.
pub(super) async fn as_etcd_says(response: Response) -> Response {
    // Only a refusal has its status among the first headers.
    let refusal = Status::from_header_map(response.headers());
    match refusal.filter(|status| status.code() == Code::OutOfRange).and_then(|status| translate(status.message())) {
        Some(status) => status.into_http::<Body>().map(axum::body::Body::new),
        None => response,
    }
}

fn translate(message: &str) -> Option<Status> {
    let (found, rest) = message.strip_prefix(TOO_LARGE)?.split_once(' ')?;
    let limit = rest.split(' ').find(|word| word.parse::<u64>().is_ok())?;
    Some(Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_that_is_too_large_is_translated() {
        let ours = "Error, decoded message length too large: found 3145744 bytes, the limit is: 2097152 bytes";
        let theirs = translate(ours).unwrap();
        assert_eq!(theirs.message(), "grpc: received message larger than max (3145744 vs. 2097152)");
        assert!(translate("etcdserver: mvcc: required revision has been compacted").is_none());
    }
}
