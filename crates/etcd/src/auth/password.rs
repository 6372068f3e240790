//! Passwords as bcrypt hashes, as etcd stores them. Both calls take tens of milliseconds on purpose: off the async threads.
//!
//! A hash reads `$2a$10$` (the variant and the cost), 22 characters of salt, 31 of digest.

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, general_purpose::NO_PAD},
};

/// bcrypt knows no more than the first 72 bytes; etcd refuses what is longer.
const PASSWORD_BYTES_MAX: usize = 72;
/// Costs that bcrypt takes, each doubling the work of the one before.
pub(crate) const COSTS: std::ops::RangeInclusive<u32> = 4..=31;
/// The cost without a flag, and in place of one that bcrypt does not take.
pub(crate) const COST_DEFAULT: u32 = 10;

/// Of bcrypt's 24 bytes, its text form has 23.
const DIGEST_BYTES: usize = 23;
const SALT_TEXT: usize = 22;
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::BCRYPT, NO_PAD);

/// A password above 72 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bcrypt: password length exceeds 72 bytes")]
pub(crate) struct PasswordTooLong;

/// The hash of a password, to be stored; `salt` is random, `cost` one of [`COSTS`].
pub(crate) fn hash(password: &str, cost: u32, salt: [u8; 16]) -> Result<String, PasswordTooLong> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(PasswordTooLong);
    }
    Ok(format!("$2a${cost:02}${}{}", BASE64.encode(salt), BASE64.encode(digest(password, cost, salt))))
}

/// Whether a password is that of the stored hash; an unreadable hash is nobody's.
pub(crate) fn is_password(password: &str, hash: &[u8]) -> bool {
    let Some((cost, salt, stored)) = parse(hash) else { return false };
    // All bytes are compared, so that the time tells nothing of where they differ.
    let differs = digest(password, cost, salt).iter().zip(stored).fold(0, |all, (one, other)| all | (one ^ other));
    differs == 0
}

fn digest(password: &str, cost: u32, salt: [u8; 16]) -> [u8; DIGEST_BYTES] {
    let mut key = [password.as_bytes(), &[0]].concat();
    key.truncate(PASSWORD_BYTES_MAX);
    let bytes = bcrypt::bcrypt(cost, salt, &key);
    *bytes.first_chunk().expect("bcrypt gives 24 bytes")
}

fn parse(hash: &[u8]) -> Option<(u32, [u8; 16], [u8; DIGEST_BYTES])> {
    let hash = std::str::from_utf8(hash).ok()?;
    let (cost, rest) =
        hash.strip_prefix("$2")?.trim_start_matches(['a', 'b', 'y']).strip_prefix('$')?.split_once('$')?;
    let (salt, digest) = rest.split_at_checked(SALT_TEXT)?;
    let cost = cost.parse().ok().filter(|cost| COSTS.contains(cost))?;
    Some((cost, BASE64.decode(salt).ok()?.try_into().ok()?, BASE64.decode(digest).ok()?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_its_password_alone() {
        let hashed = hash("secret", 4, [7; 16]).unwrap();
        assert!(hashed.starts_with("$2a$04$"));
        assert!(is_password("secret", hashed.as_bytes()));
        assert!(!is_password("Secret", hashed.as_bytes()));
        assert_eq!(hash(&"x".repeat(73), 4, [7; 16]), Err(PasswordTooLong));
        let longest = "x".repeat(72);
        assert!(is_password(&longest, hash(&longest, 4, [7; 16]).unwrap().as_bytes()));
    }

    #[test]
    fn a_hash_that_is_none_is_nobody_s() {
        for hash in ["", "$2a$", "$2a$99$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga", "$2a$10$short", "é$2a"]
        {
            assert!(!is_password("", hash.as_bytes()), "{hash}");
        }
    }

    #[test]
    fn the_hash_is_go_s() {
        // From golang.org/x/crypto/bcrypt's tests.
        assert!(is_password("allmine", b"$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga"));
    }
}
