//! Types that are text in a config file.

/// Implements serde for a type with `FromStr` and `Display` as a text, and with `bytes` also from a
/// plain number.
macro_rules! text_serde {
    ($type:ty: $expecting:literal) => {
        text_serde!(@common $type, $expecting, {});
    };
    ($type:ty: $expecting:literal, bytes) => {
        text_serde!(@common $type, $expecting, {
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
                u64::try_from(number)
                    .map(<$type>::from_bytes)
                    .map_err(|_| E::custom(format_args!("{number} is less than nothing")))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(<$type>::from_bytes(number))
            }
        });
    };
    (@common $type:ty, $expecting:literal, {$($more:tt)*}) => {
        const _: () = {
            struct TextVisitor;

            impl serde::de::Visitor<'_> for TextVisitor {
                type Value = $type;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str($expecting)
                }

                fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                    text.parse().map_err(E::custom)
                }

                $($more)*
            }

            impl<'de> serde::Deserialize<'de> for $type {
                fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
                    source.deserialize_any(TextVisitor)
                }
            }

            impl serde::Serialize for $type {
                fn serialize<S: serde::Serializer>(&self, target: S) -> Result<S::Ok, S::Error> {
                    target.collect_str(self)
                }
            }
        };
    };
}
pub(crate) use text_serde;

/// `Option` as a text that may be empty: TOML has no null, and an empty text can be printed.
pub(crate) mod empty_is_none {
    use serde::{
        Deserialize, Deserializer, Serialize, Serializer,
        de::{IntoDeserializer, value::StringDeserializer},
    };

    pub(crate) fn deserialize<'de, T, D>(source: D) -> Result<Option<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(source)?;
        if text.is_empty() {
            return Ok(None);
        }
        let inner: StringDeserializer<D::Error> = text.into_deserializer();
        T::deserialize(inner).map(Some)
    }

    pub(crate) fn serialize<T, S>(value: &Option<T>, target: S) -> Result<S::Ok, S::Error>
    where
        T: Serialize,
        S: Serializer,
    {
        match value {
            Some(value) => value.serialize(target),
            None => target.serialize_str(""),
        }
    }
}
