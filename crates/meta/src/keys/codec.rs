//! How the nouns look in JSON: names and ids as they print, counters as numbers.

/// Whether a number is what its absence means.
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A noun as the text that it prints and parses.
pub(super) mod text {
    use std::{borrow::Cow, fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::keys) fn serialize<T: Display, S: Serializer>(noun: &T, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(noun)
    }

    pub(in crate::keys) fn deserialize<'de, T, D>(input: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        Cow::<'de, str>::deserialize(input)?.parse().map_err(D::Error::custom)
    }
}

/// A noun that may be absent.
pub(super) mod optional_text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::keys) fn serialize<T: Display, S: Serializer>(noun: &Option<T>, out: S) -> Result<S::Ok, S::Error> {
        match noun {
            Some(noun) => out.collect_str(noun),
            None => out.serialize_none(),
        }
    }

    pub(in crate::keys) fn deserialize<'de, T, D>(input: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(input)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A map whose keys are nouns, each as its text.
pub(super) mod keyed {
    use std::{collections::BTreeMap, fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(in crate::keys) fn serialize<K: Display, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        out.collect_map(map.iter().map(|(key, value)| (key.to_string(), value)))
    }

    pub(in crate::keys) fn deserialize<'de, K, V, D>(input: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: FromStr<Err: Display> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let map = BTreeMap::<String, V>::deserialize(input)?;
        map.into_iter().map(|(key, value)| Ok((key.parse().map_err(D::Error::custom)?, value))).collect()
    }
}

/// A list of nouns, each as its text.
pub(super) mod texts {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::keys) fn serialize<T: Display, S: Serializer>(nouns: &[T], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(nouns.iter().map(ToString::to_string))
    }

    pub(in crate::keys) fn deserialize<'de, T, D>(input: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(input)?;
        texts.into_iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

/// A list of lists of nouns, each as its text.
pub(super) mod lists {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::keys) fn serialize<T: Display, S: Serializer>(lists: &[Vec<T>], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(lists.iter().map(|nouns| nouns.iter().map(ToString::to_string).collect::<Vec<_>>()))
    }

    pub(in crate::keys) fn deserialize<'de, T, D>(input: D) -> Result<Vec<Vec<T>>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let lists = Vec::<Vec<String>>::deserialize(input)?;
        let list = |texts: Vec<String>| texts.into_iter().map(|text| text.parse().map_err(D::Error::custom)).collect();
        lists.into_iter().map(list).collect()
    }
}

/// Whether a flag is what its absence means.
pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}

/// Whether a broker's weight is what its absence means.
pub(super) fn is_one(number: &u32) -> bool {
    *number == 1
}

pub(super) fn one() -> u32 {
    1
}

macro_rules! number {
    ($module:ident, $type:ident, $inner:ty) => {
        /// A counter as its number.
        pub(super) mod $module {
            use goulette_types::$type;
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            pub(in crate::keys) fn serialize<S: Serializer>(counter: &$type, out: S) -> Result<S::Ok, S::Error> {
                counter.0.serialize(out)
            }

            pub(in crate::keys) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<$type, D::Error> {
                <$inner>::deserialize(input).map($type)
            }
        }
    };
}

number!(leader_epoch, LeaderEpoch, u32);
number!(partition_epoch, PartitionEpoch, u64);
number!(partition_index, PartitionIndex, u32);
number!(timestamp, Timestamp, i64);
number!(offset, Offset, u64);
