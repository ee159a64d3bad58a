//! Certificates, keys, authorities and passwords that change while the worker runs. What is made of files is made again when
//! their content changes; whoever asks next gets the new one, and nothing that is in use is touched. What cannot be made
//! again stays as it was, and is told as a reason.
//!
//! Files are read, not watched: a few kilobytes every few seconds, and it works the same on every file system and for the
//! links that Kubernetes swaps. The configuration itself is not read again.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::{Code, hash_of};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::clock::Timestamp;
use crate::config::HttpConfig;
use crate::secret::Secret;
use crate::status::{Board, Reason};
use crate::tls::UnusableFile;

/// How often files are looked at.
const PERIOD: Duration = Duration::from_secs(3);

/// A value made of files, as it was made last. Clones tell the same.
#[derive(Debug)]
pub struct Renewed<T>(watch::Receiver<Arc<T>>);

impl<T> Clone for Renewed<T> {
    fn clone(&self) -> Self {
        Renewed(self.0.clone())
    }
}

impl<T> Renewed<T> {
    /// A value that stays as it is.
    pub fn fixed(value: T) -> Self {
        Renewed(watch::channel(Arc::new(value)).1)
    }

    /// The value for whoever begins something now. It is another allocation exactly when it was made again.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }
}

/// Why a value could not be made of its files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Broken {
    /// As what it is told.
    pub code: Code,
    /// Which file, and what is wrong with it.
    pub text: String,
}

impl Broken {
    /// A file with a password or token.
    pub fn secret(file: &std::path::Path, error: &std::io::Error) -> Self {
        Broken { code: Code::AuthFailed, text: format!("{}: {error}", file.display()) }
    }

    /// A certificate, key or authority.
    pub fn tls(error: impl fmt::Display) -> Self {
        Broken { code: Code::TlsFailed, text: error.to_string() }
    }
}

impl From<UnusableFile> for Broken {
    fn from(error: UnusableFile) -> Self {
        Broken::tls(error)
    }
}

/// What concerns everybody, or one pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope(pub Option<String>);

/// One value: the files that it is made of, and what they held when they were looked at last.
struct Item {
    key: &'static str,
    scope: Scope,
    files: Vec<PathBuf>,
    seen: Vec<Option<String>>,
    make: Box<dyn FnMut() -> Result<(), Broken> + Send>,
    broken: Option<Reason>,
}

/// All values that are made of files, and the signal that asks for a look.
pub struct Renewal {
    items: Vec<Item>,
    hangup: Signal,
}

impl Renewal {
    /// Catches SIGHUP from now on: without this it would end the process. To be called on a runtime.
    ///
    /// # Errors
    /// When the signal cannot be caught.
    pub fn new() -> std::io::Result<Self> {
        Ok(Renewal { items: Vec::new(), hangup: signal(SignalKind::hangup())? })
    }

    /// Makes a value, and makes it again whenever the content of one of `files` changes. `key` says which part of the
    /// configuration names them.
    ///
    /// # Errors
    /// When it cannot be made now.
    pub fn keep<T: Send + Sync + 'static>(
        &mut self,
        key: &'static str,
        scope: Scope,
        files: impl IntoIterator<Item = PathBuf>,
        mut make: impl FnMut() -> Result<T, Broken> + Send + 'static,
    ) -> Result<Renewed<T>, Broken> {
        let files: Vec<_> = files.into_iter().collect();
        // Looked at before it is made: what changes in between is made again.
        let seen = look(&files);
        let (sender, receiver) = watch::channel(Arc::new(make()?));
        if !files.is_empty() {
            let make = move || {
                sender.send_replace(Arc::new(make()?));
                Ok(())
            };
            self.items.push(Item { key, scope, files, seen, make: Box::new(make), broken: None });
        }
        Ok(Renewed(receiver))
    }

    /// The token is read anew at each command; this says in time that the next one would be refused.
    ///
    /// # Errors
    /// When it cannot be read now.
    pub fn look_after_token(&mut self, http: &HttpConfig) -> Result<(), Broken> {
        let Some(file) = http.token_file.clone() else { return Ok(()) };
        let read = file.clone();
        let make = move || Secret::read(&read).map(drop).map_err(|error| Broken::secret(&read, &error));
        self.keep("http.token_file", Scope(None), [file], make).map(drop)
    }

    /// Looks at the files every few seconds and at every SIGHUP, for ever, and tells the board what could not be made.
    pub async fn run(mut self, board: Board) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                Some(()) = self.hangup.recv() => true,
            };
            let mut items = self.items;
            // A file system may hang; the runtime's threads have other work.
            let looked = tokio::task::spawn_blocking(move || {
                let renewed = items.iter_mut().map(Item::renew).filter(|renewed| *renewed).count();
                (items, renewed)
            });
            match looked.await {
                Ok((looked, renewed)) => {
                    self.items = looked;
                    if asked {
                        let files: usize = self.items.iter().map(|item| item.files.len()).sum();
                        info!(files, renewed, "asked by SIGHUP, looked at certificates and passwords");
                    }
                }
                Err(error) => {
                    error!(%error, "certificates and passwords are not looked at any more");
                    return;
                }
            }
            let broken = |item: &Item| Some((item.scope.clone(), item.broken.clone()?));
            board.unusable_files(self.items.iter().filter_map(broken).collect());
        }
    }
}

impl Item {
    /// Whether it was made again.
    fn renew(&mut self) -> bool {
        let seen = look(&self.files);
        if seen == self.seen {
            return false;
        }
        self.seen = seen;
        let (key, pipeline) = (self.key, self.scope.0.as_deref());
        match (self.make)() {
            Ok(()) => {
                self.broken = None;
                info!(key, pipeline, files = ?self.files, "files have changed: read anew, for what begins from now on");
                true
            }
            Err(Broken { code, text }) => {
                warn!(key, pipeline, reason = text, "a changed file cannot be used, what was read before stays in use");
                let since = self.broken.take().map_or_else(Timestamp::now, |broken| broken.since);
                let detail = format!("{text}; what was read before stays in use, mend the file of {key}");
                self.broken = Some(Reason { code, since, detail });
                false
            }
        }
    }
}

/// What stands in the files, as hashes: secrets are not kept. None: it cannot be read.
fn look(files: &[PathBuf]) -> Vec<Option<String>> {
    files.iter().map(|file| std::fs::read(file).ok().map(|content| hash_of(&content))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_is_made_again_when_its_file_changes_and_stays_when_the_file_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "old\n").unwrap();
        let mut renewal = Renewal::new().unwrap();
        let read = file.clone();
        let make = move || Secret::read(&read).map_err(|error| Broken::secret(&read, &error));
        let kept = renewal.keep("postgres.password_file", Scope(None), [file.clone()], make).unwrap();
        let item = &mut renewal.items[0];
        let before = kept.get();
        assert!(!item.renew());
        assert!(Arc::ptr_eq(&before, &kept.get()), "an unchanged file makes nothing new");

        std::fs::write(&file, "").unwrap();
        assert!(!item.renew());
        assert_eq!(kept.get().expose(), "old");
        let broken = item.broken.clone().unwrap();
        assert_eq!(broken.code, Code::AuthFailed);
        assert!(broken.detail.contains("password: the file is empty"), "{}", broken.detail);
        std::fs::remove_file(&file).unwrap();
        assert!(!item.renew());
        assert_eq!(item.broken.as_ref().map(|broken| broken.since), Some(broken.since), "it stands since then");

        // As editors and Kubernetes do: another file in its place.
        let other = folder.path().join("other");
        std::fs::write(&other, "new").unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert!(item.renew());
        assert_eq!((kept.get().expose(), item.broken.is_none()), ("new", true));
        assert_eq!(before.expose(), "old", "who has the old one keeps it");
    }
}
