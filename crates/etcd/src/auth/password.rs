//! Passwords as bcrypt hashes, as etcd stores them. Both calls take tens of milliseconds on purpose: off the async threads.

/// bcrypt knows no more than the first 72 bytes; etcd refuses what is longer.
const PASSWORD_BYTES_MAX: usize = 72;
/// Costs that bcrypt takes, each doubling the work of the one before.
pub(crate) const COSTS: std::ops::RangeInclusive<u32> = 4..=31;
/// The cost without a flag.
pub(crate) const COST_DEFAULT: u32 = 10;

/// A password above 72 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bcrypt: password length exceeds 72 bytes")]
pub(crate) struct PasswordTooLong;

/// The hash of a password, to be stored; `salt` is random, `cost` one of [`COSTS`].
pub(crate) fn hash(password: &str, cost: u32, salt: [u8; 16]) -> Result<String, PasswordTooLong> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(PasswordTooLong);
    }
    let parts = bcrypt::hash_with_salt(password, cost, salt).expect("the cost is in bcrypt's range");
    // Go's name for the same function.
    Ok(parts.format_for_version(bcrypt::Version::TwoA))
}

/// Whether a password is that of the stored hash; an unreadable hash is nobody's.
pub(crate) fn is_password(password: &str, hash: &[u8]) -> bool {
    std::str::from_utf8(hash).is_ok_and(|hash| bcrypt::verify(password, hash).unwrap_or(false))
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
        assert!(!is_password("", b""));
        assert_eq!(hash(&"x".repeat(73), 4, [7; 16]), Err(PasswordTooLong));
    }

    #[test]
    fn the_hash_is_go_s() {
        // From golang.org/x/crypto/bcrypt's tests.
        assert!(is_password("allmine", b"$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga"));
    }
}
