//! What plugins work out once about a pod and read again for each node.

use std::any::{Any, TypeId};
use std::sync::Arc;

/// Values by type: each plugin writes types of its own. A clone shares them.
#[derive(Clone, Default)]
pub struct CycleState {
    entries: Vec<(TypeId, Arc<dyn Any + Send + Sync>)>,
}

impl CycleState {
    /// Keeps `value`, in place of one of the same type.
    pub fn write<T: Any + Send + Sync>(&mut self, value: T) {
        let (key, value) = (TypeId::of::<T>(), Arc::new(value));
        match self.entries.iter_mut().find(|(known, _)| *known == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key, value)),
        }
    }

    /// The value of this type, if one was written.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        let key = TypeId::of::<T>();
        let (_, value) = self.entries.iter().find(|(known, _)| *known == key)?;
        value.downcast_ref()
    }

    /// The value of this type.
    ///
    /// # Panics
    /// If nobody wrote it: a plugin reads in Filter or Score only what it wrote when it was prepared.
    #[must_use]
    pub fn read<T: Any + Send + Sync>(&self) -> &T {
        self.get().expect("a plugin writes its state before it reads it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_type_and_a_clone_goes_its_own_way() {
        let mut state = CycleState::default();
        state.write(1_u8);
        state.write("text");
        let mut other = state.clone();
        other.write(2_u8);
        assert_eq!((state.read::<u8>(), other.read::<u8>()), (&1, &2));
        assert_eq!(other.read::<&str>(), &"text");
        assert!(state.get::<u16>().is_none());
    }
}
