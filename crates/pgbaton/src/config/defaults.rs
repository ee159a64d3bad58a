//! What takes effect where nothing is given, as it would be written.

use super::{
    Backend, Compat, Delivery, Format, LogFormat, OnGap, OnLoss, OnPublicationShrink, StandbyBarrier, VerifyClient,
};

pub(super) const LISTEN: &str = "0.0.0.0:8080";
pub(super) const VERIFY_CLIENT: VerifyClient = VerifyClient::None;

pub(super) const BACKEND: Backend = Backend::Etcd;
pub(super) const ETCD_PREFIX: &str = "/pgbaton";
pub(super) const LEASE_TTL: &str = "10s";
pub(super) const ON_LOSS: OnLoss = OnLoss::SlotGuarded;

pub(super) const ON_GAP: OnGap = OnGap::Halt;
pub(super) const ON_PUBLICATION_SHRINK: OnPublicationShrink = OnPublicationShrink::Note;
pub(super) const STANDBY_BARRIER: StandbyBarrier = StandbyBarrier::Off;
pub(super) const TAKEOVER_GRACE: &str = "1s";
pub(super) const AUDIT: bool = false;

pub(super) const DELIVERY: Delivery = Delivery::ExactlyOnce;
pub(super) const FORMAT: Format = Format::Debezium;
pub(super) const COMPAT: Compat = Compat::Honest;
pub(super) const ATOMIC_UP_TO: u64 = 100_000;

pub(super) const LOG_FORMAT: LogFormat = LogFormat::Text;
pub(super) const LOG_LEVEL: &str = "info";
