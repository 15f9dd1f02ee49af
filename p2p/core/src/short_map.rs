//! A map of few entries.

/// Of so many keys each is compared: that is faster than to halve them again and again.
const FEW: usize = 16;

/// Entries in the order of their keys, as in a `BTreeMap`, but the keys lie side by side, and so do
/// the values: what a message looks up touches little memory, and what comes and goes for each
/// piece costs no allocation. For a dozen entries or some hundreds: each that is added or taken out
/// moves those behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShortMap<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> Default for ShortMap<K, V> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<K: Ord, V> ShortMap<K, V> {
    fn search(&self, key: &K) -> Result<usize, usize> {
        self.keys.binary_search(key)
    }

    /// Where a key is, counted from the first, until an entry is added or taken out.
    pub(crate) fn place(&self, key: &K) -> Option<usize> {
        match self.keys.len() <= FEW {
            true => self.keys.iter().position(|other| other == key),
            false => self.search(key).ok(),
        }
    }

    /// The entry at a place.
    pub(crate) fn at(&self, place: usize) -> Option<(&K, &V)> {
        self.keys.get(place).zip(self.values.get(place))
    }

    pub(crate) fn at_mut(&mut self, place: usize) -> Option<(&K, &mut V)> {
        self.keys.get(place).zip(self.values.get_mut(place))
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(self.place(key)?)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.place(key)?;
        self.values.get_mut(place)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_some()
    }

    /// Adds an entry; returns what was there under its key.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.search(&key) {
            Ok(place) => Some(std::mem::replace(&mut self.values[place], value)),
            Err(place) => {
                self.keys.insert(place, key);
                self.values.insert(place, value);
                None
            }
        }
    }

    /// The value under a key, which is made first if there is none.
    pub(crate) fn get_or_insert_with(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V
    where
        K: Clone,
    {
        let place = self.search(key).unwrap_or_else(|place| {
            self.keys.insert(place, key.clone());
            self.values.insert(place, make());
            place
        });
        &mut self.values[place]
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.place(key)?;
        self.keys.remove(place);
        Some(self.values.remove(place))
    }

    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.keys.iter()
    }

    pub(crate) fn into_keys(self) -> impl Iterator<Item = K> {
        self.keys.into_iter()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.values.iter()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.values.iter_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.keys.iter().zip(&self.values)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.keys.iter().zip(&mut self.values)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_an_ordinary_map(
            steps in prop::collection::vec((0u8..4, 0u8..40, any::<u8>()), 0..200),
        ) {
            let (mut map, mut model) = (ShortMap::default(), BTreeMap::new());
            for (step, key, value) in steps {
                match step {
                    0 => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    1 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    2 => {
                        let made = *map.get_or_insert_with(&key, || value);
                        prop_assert_eq!(made, *model.entry(key).or_insert(value));
                    }
                    _ => prop_assert_eq!(map.get(&key), model.get(&key)),
                }
                prop_assert_eq!(map.contains_key(&key), model.contains_key(&key));
                let found = map.place(&key).and_then(|place| map.at(place));
                prop_assert_eq!(found, model.get_key_value(&key));
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(map.iter().eq(model.iter()));
            }
            map.values_mut().for_each(|value| *value ^= 1);
            model.values_mut().for_each(|value| *value ^= 1);
            prop_assert!(map.keys().eq(model.keys()) && map.values().eq(model.values()));
            prop_assert!(map.clone().into_keys().eq(model.into_keys()));
            map.clear();
            prop_assert!(map.is_empty());
        }
    }
}
