//! Ids of members and clusters, computed as etcd does, so that the same flags give the same ids.

use sha1::{Digest, Sha1};

use crate::consensus::MemberId;

/// The id of a member with these peer URLs in the cluster of this token (`--initial-cluster-token`).
///
/// A member that is added to a running cluster also has the time of that, in seconds since 1970, in its id.
pub fn member_id(peer_urls: &[String], token: &str, added_at: Option<u64>) -> MemberId {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut text = sorted.concat() + token;
    if let Some(seconds) = added_at {
        text += &seconds.to_string();
    }
    first_word(text.as_bytes())
}

/// The id of the cluster that begins with these members.
pub fn cluster_id(members: &[MemberId]) -> u64 {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    first_word(&sorted.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<_>>())
}

fn first_word(bytes: &[u8]) -> u64 {
    let digest = Sha1::digest(bytes);
    let word = u64::from_be_bytes(digest[..8].try_into().expect("a digest of 20 bytes"));
    // 0 means nobody.
    word.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_are_those_that_etcd_computes() {
        // What etcd prints when it is started without any flag.
        let member = member_id(&["http://localhost:2380".into()], "etcd-cluster", None);
        assert_eq!(format!("{member:x}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[member])), "cdf818194e3a8c32");
    }

    #[test]
    fn the_order_of_urls_and_members_does_not_matter() {
        let (a, b) = ("http://a:1".to_owned(), "http://b:2".to_owned());
        assert_eq!(member_id(&[a.clone(), b.clone()], "t", None), member_id(&[b, a], "t", None));
        assert_eq!(cluster_id(&[1, 2, 3]), cluster_id(&[3, 1, 2]));
    }
}
