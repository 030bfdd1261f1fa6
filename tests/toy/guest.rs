//! A guest's space, which is audited where it goes.

use std::ops::Deref;

use stage2::{
    Config, Error, Platform,
    audit::{Meanwhile, audit},
    lock::{LockFamily, Spin},
    space::Dismantling,
};

/// The space, by the same name. Its parts must agree when it goes, whatever the test was about.
pub struct GuestSpace<P: Platform, L: LockFamily = Spin>(Option<stage2::GuestSpace<P, L>>);

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    pub fn new(config: Config<P>) -> Result<Self, Error> {
        stage2::GuestSpace::new(config).map(|space| Self(Some(space)))
    }

    #[allow(clippy::result_large_err, reason = "as the space's")]
    pub fn dismantle(mut self) -> Result<Dismantling<P, L>, (Self, Error)> {
        self.check();
        let space = self.0.take().expect("it is there until it goes");
        space.dismantle().map_err(|(space, error)| (Self(Some(space)), error))
    }

    fn check(&self) {
        let report = audit([&**self], Meanwhile::Nothing).expect("memory");
        assert!(report.is_clean(), "{report}");
    }
}

impl<P: Platform, L: LockFamily> Deref for GuestSpace<P, L> {
    type Target = stage2::GuestSpace<P, L>;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("it is there until it goes")
    }
}

impl<P: Platform, L: LockFamily> Drop for GuestSpace<P, L> {
    fn drop(&mut self) {
        // A second panic would end the process, and with it the other tests' verdicts.
        if self.0.is_some() && !std::thread::panicking() {
            self.check();
        }
    }
}
