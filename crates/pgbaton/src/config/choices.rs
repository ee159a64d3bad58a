//! The settings that are one word of a few. Words that a later version will know are refused by name, not ignored.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    mistake::{Checked, Wrong},
    schema,
};

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident: $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+; later: $($later:literal),*)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub enum $name {
                $($(#[$variant_doc])* $variant,)+
            }

            impl $name {
                /// The word in the configuration.
                pub const fn as_str(self) -> &'static str {
                    match self { $(Self::$variant => $text,)+ }
                }

                pub(super) fn parse(text: &str) -> Checked<Self> {
                    match text {
                        $($text => Ok(Self::$variant),)+
                        other => Err(Wrong {
                            remark: if LATER.contains(&(stringify!($name), other)) { NOT_YET } else { "" }.into(),
                            allowed: [$(concat!("\"", $text, "\"")),+].join(", "),
                        }),
                    }
                }
            }

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    schema::choice(&[$($text),+], &[$($later),*])
                }
            }
        )+

        const LATER: &[(&str, &str)] = &[$($((stringify!($name), $later),)*)+];
    };
}

const NOT_YET: &str = ", which is not available in this version";

choices! {
    /// Where the workers agree on who tries.
    Backend:
        /// A lease in etcd.
        Etcd = "etcd",
        /// Nowhere: the slot and the sink's fence are all that workers have in common.
        None = "none";
        later:

    /// What the holder does when etcd does not answer.
    OnLoss:
        /// It goes on while the slot and a fenced sink are its own, 15 minutes at most.
        SlotGuarded = "slot-guarded",
        /// It stops in time, before its lease can end.
        Strict = "strict";
        later:

    /// Of whom the HTTP port asks a certificate.
    VerifyClient:
        /// Of nobody.
        None = "none",
        /// Of whoever commands; who only reads may show none.
        Optional = "optional",
        /// Of everybody.
        Required = "required";
        later:

    /// What happens when changes are gone.
    OnGap:
        /// Quarantine, until a person decides.
        Halt = "halt",
        /// Go on behind what is missing, and say so in the markers.
        Accept = "accept";
        later: "resnapshot"

    /// What happens when tables are not published any more.
    OnPublicationShrink:
        /// Go on, and name their topics in the markers.
        Note = "note",
        /// Quarantine, until a person decides.
        Halt = "halt";
        later:

    /// Whether publication waits for standbys of PostgreSQL.
    StandbyBarrier:
        /// It does not.
        Off = "off",
        /// For those that PostgreSQL's own synchronous replication waits for.
        Sync = "sync",
        /// For every one that streams.
        All = "all";
        later:

    /// What a consumer of Kafka may rely on.
    Delivery:
        /// Each change once, for consumers that read committed transactions.
        ExactlyOnce = "exactly-once",
        /// Each change, and after a takeover some of them once more.
        AtLeastOnce = "at-least-once";
        later:

    /// How a change is written.
    Format:
        /// Debezium's JSON envelope.
        Debezium = "debezium";
        later: "flat", "avro"

    /// How near the format is to Debezium's.
    Compat:
        /// Differs where Debezium hides something, as documented.
        Honest = "honest";
        later: "strict"

    /// How the log is written.
    LogFormat:
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json";
        later:
}
