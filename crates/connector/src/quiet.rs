//! A terminal that shows nothing of what is typed.

use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// Nothing of what is typed is shown for as long as this lives.
#[derive(Debug)]
pub struct Quiet<'a, T: AsFd> {
    terminal: &'a T,
    before: Option<Termios>,
}

impl<'a, T: AsFd> Quiet<'a, T> {
    /// From now on. What is no terminal is left as it is.
    pub fn new(terminal: &'a T) -> Self {
        let before = tcgetattr(terminal).ok();
        if let Some(mut quiet) = before.clone() {
            quiet.local_flags.remove(LocalFlags::ECHO);
            let _ = tcsetattr(terminal, SetArg::TCSAFLUSH, &quiet);
        }
        Self { terminal, before }
    }
}

impl<T: AsFd> Drop for Quiet<'_, T> {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, before);
        }
    }
}
