/// The one ledger of RAM: everything that lasts is entered here before it is allocated.
///
/// A ceiling, not a hope: what does not fit is refused with the numbers that the user needs.
///
/// ```
/// use flashmill_store::Budget;
/// let mut budget = Budget::new(100);
/// budget.reserve("trunk", 60)?;
/// assert_eq!(budget.left(), 40);
/// assert!(budget.reserve("slots", 50).is_err());
/// # Ok::<(), flashmill_store::BudgetError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    total: u64,
    used: u64,
    entries: Vec<BudgetEntry>,
}

/// One line of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetEntry {
    /// What the memory is for.
    pub what: &'static str,
    /// Bytes granted, over all reservations under this name.
    pub bytes: u64,
}

/// A reservation that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} needs {wanted} bytes, but {left} of the budget of {total} bytes are left; raise --ram or lower --context"
)]
pub struct BudgetError {
    /// What the memory was for.
    pub what: &'static str,
    /// Bytes asked for.
    pub wanted: u64,
    /// Bytes left.
    pub left: u64,
    /// Bytes of the whole budget.
    pub total: u64,
}

impl Budget {
    /// A ledger of `total` bytes with nothing entered.
    pub fn new(total: u64) -> Budget {
        Budget { total, used: 0, entries: Vec::new() }
    }

    /// Enters `bytes` under `what`; a second reservation under the same name is added to the first.
    ///
    /// # Errors
    /// If fewer bytes are left. The ledger is then unchanged.
    pub fn reserve(&mut self, what: &'static str, bytes: u64) -> Result<(), BudgetError> {
        let left = self.left();
        if bytes > left {
            return Err(BudgetError { what, wanted: bytes, left, total: self.total });
        }
        self.used += bytes;
        match self.entries.iter_mut().find(|entry| entry.what == what) {
            Some(entry) => entry.bytes += bytes,
            None => self.entries.push(BudgetEntry { what, bytes }),
        }
        Ok(())
    }

    /// The lines of the ledger, in the order of their first reservation.
    pub fn entries(&self) -> &[BudgetEntry] {
        &self.entries
    }

    /// Bytes not yet reserved.
    pub fn left(&self) -> u64 {
        self.total - self.used
    }

    /// Bytes of the whole budget.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refusal_changes_nothing_and_names_the_numbers() {
        let mut budget = Budget::new(100);
        budget.reserve("trunk", 60).unwrap();
        let before = budget.clone();
        let error = budget.reserve("slots", 41).unwrap_err();
        assert_eq!(error, BudgetError { what: "slots", wanted: 41, left: 40, total: 100 });
        assert_eq!(budget, before);
        assert_eq!(
            error.to_string(),
            "slots needs 41 bytes, but 40 of the budget of 100 bytes are left; raise --ram or lower --context"
        );
    }

    #[test]
    fn sizes_near_the_limit_do_not_overflow() {
        let mut budget = Budget::new(u64::MAX);
        budget.reserve("a", u64::MAX - 1).unwrap();
        assert!(budget.reserve("b", u64::MAX).is_err());
        budget.reserve("b", 1).unwrap();
        assert_eq!(budget.left(), 0);
    }

    proptest! {
        #[test]
        fn entries_and_the_rest_make_the_total(total in 0u64..1000, asks in prop::collection::vec((0usize..3, 0u64..400), 0..20)) {
            let names = ["trunk", "kv", "slots"];
            let mut budget = Budget::new(total);
            for (name, bytes) in asks {
                let _ = budget.reserve(names[name], bytes);
                let entered: u64 = budget.entries().iter().map(|entry| entry.bytes).sum();
                prop_assert_eq!(entered + budget.left(), total);
                prop_assert!(budget.entries().len() <= names.len());
            }
        }
    }
}
