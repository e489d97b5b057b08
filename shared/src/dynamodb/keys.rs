//! The shape of every key of the table; nothing else formats one.
//!
//! ```text
//! what                partition key                      sort key
//! registered model    T#<tenant>#M                       <model>
//! ... displaced       T#<tenant>#M                       <model>:<home>
//! version             T#<tenant>#M#<home>                V#<number>
//! alias               T#<tenant>#M#<home>                A#<alias>
//! alias history       T#<tenant>#M#<home>                H#<alias>#<sequence>
//! other events        T#<tenant>#M#<home>                E#<ulid>
//! marks of a moved    T#<tenant>#M#<home>                E#! | E#~ | H#<alias>#! | H#<alias>#~
//! name of a home      T#<tenant>#M#<home>                @
//! holders of a name   T#<tenant>#NAME#<model>            <time, 13 digits>#<event ulid>
//! model's settings    T#<tenant>#M#<home>                G#head | G#<kind>#<revision>
//! exclusive stage     T#<tenant>#M#<home>                S#<stage>
//! promotion request   T#<tenant>#M#<home>                R#<ulid>
//! open for a target   T#<tenant>#M#<home>                Q#A#<alias> | Q#S#<version>#<stage>
//! rollout of a model  T#<tenant>#M#<home>                O#<environment>/<endpoint>
//! registry's settings T#<tenant>#C                       G#head | G#<kind>#<revision>
//! inbox of requests   T#<tenant>#R                       <ulid>
//! rollout             T#<tenant>#O                       <environment>/<endpoint>
//! rollout's history   T#<tenant>#O#<environment>/<endpoint>  <revision>
//! chained events      T#<tenant>#M#<home>                C#<sequence>
//! changes by time     T#<tenant>#AT#alias#<alias> | T#<tenant>#AT#stage#<stage in lower case>   <time, 13 digits>#<event ulid>
//! sealed days         T#<tenant>#SEAL                    <day>
//! events of no model  T#<tenant>#E                       E#<ulid>
//! model's notes       T#<tenant>#N#<home>                notes
//! retention rules     T#<tenant>#N#<home>                retention
//! version documents   T#<tenant>#D#<home>#<number>       metadata | artifacts | notes | checkpoint | archive.<format> | oci
//! files' holder       T#<tenant>#PF#<sha256 of files>    #
//! what has a digest   T#<tenant>#SHA#<sha256>            <home>/<number>
//! trusted key         T#<tenant>#PK                      <name>
//! idempotency         T#<tenant>#I#<sha256 of key>       #
//! event feed          T#<tenant>#F#<day>                 <ulid>
//! feed in order       T#<tenant>#L#<day of dispatch>     <ulid of dispatch>
//! tag index           T#<tenant>#G#<sha256 of tag>       <model>
//! validation policy   T#<tenant>#P                       validation
//! subscription        T#<tenant>#W                       <ulid>
//! delivery            T#<tenant>#X#<subscription>        <event ulid>
//! waiting delivery    T#<tenant>#Y#<subscription>        <lane>#<ulid of dispatch>
//! dead letter         T#<tenant>#Z#<subscription>        <event ulid>
//! token               T#<tenant>#K                       <ulid>
//! experiment          T#<tenant>#TX                      <id>
//! next experiment     T#<tenant>#TC                      #
//! experiment's name   T#<tenant>#TN#<sha256 of name>     #
//! run                 T#<tenant>#TR#<experiment>         <start, newest first>#<run>
//! logged model        T#<tenant>#TM#<experiment>         <creation, newest first>#<logged model>
//! their large parts   the same                           <of the thing>#<section>#<part>
//! where either lies   T#<tenant>#TI#<run or model>       #
//! metric points       T#<tenant>#TH#<run>                K#<sha256 of name>#<ulid> | B#<ulid>
//! versions of a run   T#<tenant>#TV#<run>                <home>#<number>
//! work that is due    W#<kind>                           <due, 13 digits>#<sha256 of subject>
//! outbox checkpoint   W#outbox                           <stream shard>
//! ```
//!
//! What a model has lies under its home, which is its name unless it was renamed or its name was used before.
//! Numbers are padded to ten digits, so that text order is number order.
//! Model names may contain `#`; every key stays unambiguous because what follows a name has a fixed width.

use crate::domain::tracking::ExperimentId;
use crate::domain::{
    AliasName, Digest, ModelName, PromotionTarget, Realm, SettingsKind, StageName, TenantName,
    Timestamp, VersionId, VersionNumber,
};
use sha2::{Digest as _, Sha256};

/// A partition key and a sort key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Partition key.
    pub pk: String,
    /// Sort key.
    pub sk: String,
}

fn key(pk: String, sk: impl Into<String>) -> Key {
    Key { pk, sk: sk.into() }
}

/// Partition of all registered models of a tenant; one Query lists them by name.
pub fn models(tenant: &TenantName) -> String {
    format!("T#{tenant}#M")
}

/// A registered model.
pub fn model(tenant: &TenantName, name: &ModelName) -> Key {
    key(models(tenant), model_sk(name))
}

/// Sort key of a registered model; one that lost its name to another has its home behind it.
pub fn model_sk(name: &ModelName) -> String {
    if name.is_displaced() {
        format!("{name}:{}", name.home())
    } else {
        name.to_string()
    }
}

/// Prefix of the models that lost a name to another one.
pub fn displaced_prefix(name: &ModelName) -> String {
    format!("{name}:")
}

/// What a home is called by now; only homes whose name was given away have it.
pub fn home(tenant: &TenantName, name: &ModelName) -> Key {
    key(model_partition(tenant, name), "@")
}

/// Partition of the homes that a name meant, by time; only names that were given away have it.
pub fn holders(tenant: &TenantName, name: &ModelName) -> String {
    format!("T#{tenant}#NAME#{name}")
}

/// From when on a name meant a home.
pub fn holder(tenant: &TenantName, name: &ModelName, since: Timestamp, event_id: &str) -> Key {
    key(
        holders(tenant, name),
        format!("{:013}#{event_id}", since.millis()),
    )
}

/// The two marks around what a prefix finds, which say that the name of the partition was given away.
///
/// One comes first in each direction, so that the first page of a query meets it.
pub fn away_marks(tenant: &TenantName, home: &ModelName, prefix: &str) -> [Key; 2] {
    ["!", "~"].map(|mark| key(model_partition(tenant, home), format!("{prefix}{mark}")))
}

/// Partition of everything that one model has.
pub fn model_partition(tenant: &TenantName, name: &ModelName) -> String {
    format!("T#{tenant}#M#{}", name.home())
}

/// A version.
pub fn version(id: &VersionId) -> Key {
    key(
        model_partition(&id.tenant, &id.model),
        version_sk(id.number),
    )
}

/// Sort key of a version.
pub fn version_sk(number: VersionNumber) -> String {
    format!("V#{:010}", number.get())
}

/// An alias.
pub fn alias(tenant: &TenantName, model: &ModelName, alias: &AliasName) -> Key {
    key(model_partition(tenant, model), format!("A#{alias}"))
}

/// One entry of an alias's history.
pub fn history(tenant: &TenantName, model: &ModelName, alias: &AliasName, sequence: u64) -> Key {
    key(
        model_partition(tenant, model),
        format!("H#{alias}#{sequence:010}"),
    )
}

/// Prefix of an alias's history.
pub fn history_prefix(alias: &AliasName) -> String {
    format!("H#{alias}#")
}

/// Prefix of a model's events that are no alias changes.
pub const EVENTS: &str = "E#";

/// An event that is no alias change.
pub fn event(tenant: &TenantName, model: &ModelName, id: &str) -> Key {
    key(model_partition(tenant, model), format!("{EVENTS}{id}"))
}

/// An event about no model, such as the test of a subscription.
pub fn tenant_event(tenant: &TenantName, id: &str) -> Key {
    key(format!("T#{tenant}#E"), format!("E#{id}"))
}

fn settings_partition(tenant: &TenantName, scope: &Realm) -> String {
    match scope {
        Realm::Registry => format!("T#{tenant}#C"),
        Realm::Model(model) => model_partition(tenant, model),
    }
}

/// Sort key of which settings of a registry or a model are in force.
pub const SETTINGS_HEAD: &str = "G#head";

/// Which settings of a registry or a model are in force.
pub fn settings_head(tenant: &TenantName, scope: &Realm) -> Key {
    key(settings_partition(tenant, scope), SETTINGS_HEAD)
}

/// One revision of a document of settings.
pub fn settings(tenant: &TenantName, scope: &Realm, kind: SettingsKind, revision: u64) -> Key {
    key(
        settings_partition(tenant, scope),
        format!("G#{}#{revision:010}", kind.as_str()),
    )
}

/// Which version stands in an exclusive stage.
pub fn exclusive_stage(tenant: &TenantName, model: &ModelName, stage: &StageName) -> Key {
    key(model_partition(tenant, model), format!("S#{stage}"))
}

/// Prefix of the promotion requests of a model.
pub const REQUESTS: &str = "R#";

/// A promotion request.
pub fn request(tenant: &TenantName, model: &ModelName, id: &str) -> Key {
    key(model_partition(tenant, model), format!("{REQUESTS}{id}"))
}

/// Which promotion request is open for a target; a stage has one for each version.
pub fn open_request(
    tenant: &TenantName,
    model: &ModelName,
    target: &PromotionTarget,
    version: VersionNumber,
) -> Key {
    let sk = match target {
        PromotionTarget::Alias(alias) => format!("Q#A#{alias}"),
        PromotionTarget::Stage(stage) => format!("Q#S#{:010}#{stage}", version.get()),
    };
    key(model_partition(tenant, model), sk)
}

/// Partition of a tenant's open promotion requests.
pub fn inbox(tenant: &TenantName) -> String {
    format!("T#{tenant}#R")
}

/// An open promotion request in the inbox.
pub fn inbox_entry(tenant: &TenantName, id: &str) -> Key {
    key(inbox(tenant), id)
}

/// Partition of a tenant's rollouts.
pub fn rollouts(tenant: &TenantName) -> String {
    format!("T#{tenant}#O")
}

/// What is served at a place, `<environment>/<endpoint>`.
pub fn rollout(tenant: &TenantName, place: &str) -> Key {
    key(rollouts(tenant), place)
}

/// Partition of the history of a place.
pub fn rollout_history(tenant: &TenantName, place: &str) -> String {
    format!("T#{tenant}#O#{place}")
}

/// One revision of what was served at a place.
pub fn rollout_revision(tenant: &TenantName, place: &str, revision: u64) -> Key {
    key(rollout_history(tenant, place), format!("{revision:010}"))
}

/// Prefix of the places where a model is served.
pub const ROLLOUTS: &str = "O#";

/// That a model is served at a place.
pub fn rollout_of_model(tenant: &TenantName, model: &ModelName, place: &str) -> Key {
    key(model_partition(tenant, model), format!("{ROLLOUTS}{place}"))
}

/// Prefix of the events of a model in the order of their chain.
pub const CHAIN: &str = "C#";

/// An event in the chain of its model.
pub fn chained(tenant: &TenantName, model: &ModelName, sequence: u64) -> Key {
    key(
        model_partition(tenant, model),
        format!("{CHAIN}{sequence:010}"),
    )
}

/// Partition of the changes of aliases of one name, of all models, by time.
pub fn alias_changes(tenant: &TenantName, alias: &AliasName) -> String {
    format!("T#{tenant}#AT#alias#{alias}")
}

/// Partition of the changes to and from one stage, of all versions, by time; the stage in any case, as its name is found.
pub fn stage_changes(tenant: &TenantName, stage: &str) -> String {
    format!("T#{tenant}#AT#stage#{}", stage.to_lowercase())
}

/// Sort key of a change in such a partition.
pub fn change_sk(time: Timestamp, event_id: &str) -> String {
    format!("{:013}#{event_id}", time.millis())
}

/// Upper end of the sort keys of changes up to a time, which itself is among them.
pub fn changes_until(time: Timestamp) -> String {
    format!("{:013}#~", time.millis())
}

/// What was sealed of a day.
pub fn seal(tenant: &TenantName, day: &str) -> Key {
    key(format!("T#{tenant}#SEAL"), day)
}

/// Notes of a model that are too large for its item.
pub fn model_notes(tenant: &TenantName, name: &ModelName) -> Key {
    key(format!("T#{tenant}#N#{}", name.home()), "notes")
}

/// The retention rules of a model.
pub fn retention(tenant: &TenantName, name: &ModelName) -> Key {
    key(format!("T#{tenant}#N#{}", name.home()), "retention")
}

/// A document of a version: `metadata`, `artifacts` or `notes`; or its `checkpoint`.
pub fn version_document(id: &VersionId, document: &str) -> Key {
    key(
        format!(
            "T#{}#D#{}#{:010}",
            id.tenant,
            id.model.home(),
            id.number.get()
        ),
        document,
    )
}

/// Which version holds these files, and how many versions have them.
pub fn files_holder(tenant: &TenantName, files: &Digest) -> Key {
    key(format!("T#{tenant}#PF#{}", files.hex()), "#")
}

/// What a version is to OCI clients.
pub fn oci_document(id: &VersionId) -> Key {
    version_document(id, "oci")
}

/// Partition of the versions that have something by a digest.
pub fn content_partition(tenant: &TenantName, digest: &Digest) -> String {
    format!("T#{tenant}#SHA#{}", digest.hex())
}

/// Prefix of the versions of one model there; no home has a `/`, and so none begins like another.
pub fn content_prefix(model: &ModelName) -> String {
    format!("{}/", model.home())
}

/// What a version has by a digest.
pub fn content(id: &VersionId, digest: &Digest) -> Key {
    key(
        content_partition(&id.tenant, digest),
        format!("{}{:010}", content_prefix(&id.model), id.number.get()),
    )
}

/// Partition of the keys that a tenant trusts.
pub fn trusted_keys(tenant: &TenantName) -> String {
    format!("T#{tenant}#PK")
}

/// A key that a tenant trusts.
pub fn trusted_key(tenant: &TenantName, name: &str) -> Key {
    key(trusted_keys(tenant), name)
}

/// What was answered to an idempotency key.
pub fn idempotency(tenant: &TenantName, idempotency_key: &str) -> Key {
    key(format!("T#{tenant}#I#{}", hash(&[idempotency_key])), "#")
}

/// An event in the feed of its day; its presence says that the event was dispatched.
pub fn feed(tenant: &TenantName, time: Timestamp, id: &str) -> Key {
    key(format!("T#{tenant}#F#{}", time.day()), id)
}

/// Partition of the events of a tenant that were dispatched on a day, in the order of their dispatch.
pub fn feed_day(tenant: &TenantName, day: &str) -> String {
    format!("T#{tenant}#L#{day}")
}

/// An event in the order of dispatch.
pub fn feed_entry(tenant: &TenantName, dispatched_at: Timestamp, stamp: &str) -> Key {
    key(feed_day(tenant, &dispatched_at.day()), stamp)
}

/// Partition of the models that carry a tag.
pub fn tag(tenant: &TenantName, tag_key: &str, value: &str) -> String {
    format!("T#{tenant}#G#{}", hash(&[tag_key, value]))
}

/// The validation policy of a tenant.
pub fn validation_policy(tenant: &TenantName) -> Key {
    key(format!("T#{tenant}#P"), "validation")
}

/// Partition of a tenant's subscriptions.
pub fn subscriptions(tenant: &TenantName) -> String {
    format!("T#{tenant}#W")
}

/// A subscription.
pub fn subscription(tenant: &TenantName, id: &str) -> Key {
    key(subscriptions(tenant), id)
}

/// Partition of a tenant's tokens.
pub fn tokens(tenant: &TenantName) -> String {
    format!("T#{tenant}#K")
}

/// A token.
pub fn token(tenant: &TenantName, id: &str) -> Key {
    key(tokens(tenant), id)
}

/// Partition of a subscription's deliveries.
pub fn deliveries(tenant: &TenantName, subscription_id: &str) -> String {
    format!("T#{tenant}#X#{subscription_id}")
}

/// A delivery.
pub fn delivery(tenant: &TenantName, subscription_id: &str, event_id: &str) -> Key {
    key(deliveries(tenant, subscription_id), event_id)
}

/// The lane of a model's deliveries within a subscription, by the model's home: 16 hexadecimal digits, also for events
/// of no model.
pub fn lane(home: Option<&str>) -> String {
    let mut lane = hash(&[home.unwrap_or_default()]);
    lane.truncate(16);
    lane
}

/// The place of a delivery in its lane.
pub fn lane_place(lane: &str, stamp: &str) -> String {
    format!("{lane}#{stamp}")
}

/// Partition of a subscription's deliveries that wait, lane by lane, each in order.
pub fn waiting_deliveries(tenant: &TenantName, subscription_id: &str) -> String {
    format!("T#{tenant}#Y#{subscription_id}")
}

/// A delivery that waits.
pub fn waiting_delivery(tenant: &TenantName, subscription_id: &str, place: &str) -> Key {
    key(waiting_deliveries(tenant, subscription_id), place)
}

/// Partition of a subscription's dead letters.
pub fn dead_letters(tenant: &TenantName, subscription_id: &str) -> String {
    format!("T#{tenant}#Z#{subscription_id}")
}

/// A dead letter.
pub fn dead_letter(tenant: &TenantName, subscription_id: &str, event_id: &str) -> Key {
    key(dead_letters(tenant, subscription_id), event_id)
}

/// Partition of all experiments of a tenant; one Query lists them by number.
pub fn experiments(tenant: &TenantName) -> String {
    format!("T#{tenant}#TX")
}

/// An experiment.
pub fn experiment(tenant: &TenantName, id: ExperimentId) -> Key {
    key(experiments(tenant), format!("{:020}", id.get()))
}

/// The number that the next experiment gets.
pub fn experiment_counter(tenant: &TenantName) -> Key {
    key(format!("T#{tenant}#TC"), "#")
}

/// Which experiment has a name.
pub fn experiment_name(tenant: &TenantName, name: &str) -> Key {
    key(format!("T#{tenant}#TN#{}", hash(&[name])), "#")
}

/// Partition of the runs of an experiment, newest first.
pub fn runs(tenant: &TenantName, experiment: ExperimentId) -> String {
    format!("T#{tenant}#TR#{experiment}")
}

/// Partition of the logged models of an experiment, newest first.
pub fn logged_models(tenant: &TenantName, experiment: ExperimentId) -> String {
    format!("T#{tenant}#TM#{experiment}")
}

/// Sort key of a run or a logged model: the newest first, and by id where two began in the same millisecond.
pub fn newest_first(time: i64, id: &str) -> String {
    // Flipping the sign makes the order of the bits that of the numbers, and flipping all makes it descending.
    let descending = !(time.cast_unsigned() ^ (1 << 63));
    format!("{descending:016x}#{id}")
}

/// A part of what is too large for the item of a run, a logged model or an experiment.
pub fn section(of: &Key, section: &str, part: usize) -> Key {
    key(of.pk.clone(), format!("{}#{section}#{part:02}", of.sk))
}

/// Values of the metrics of a logged model.
pub fn logged_metrics(of: &Key, id: &str) -> Key {
    key(of.pk.clone(), format!("{}#points#{id}", of.sk))
}

/// Where a run or a logged model lies.
pub fn tracked(tenant: &TenantName, id: &str) -> Key {
    key(format!("T#{tenant}#TI#{id}"), "#")
}

/// Partition of the metric points of a run.
pub fn points(tenant: &TenantName, run: &str) -> String {
    format!("T#{tenant}#TH#{run}")
}

/// Sort keys of points of one metric alone begin with this.
pub fn points_of_metric(metric: &str) -> String {
    format!("K#{}#", hash(&[metric]))
}

/// Sort keys of points of several metrics begin with this.
pub const POINTS_OF_BATCH: &str = "B#";

/// Partition of the versions that were registered from a run.
pub fn versions_of_run(tenant: &TenantName, run: &str) -> String {
    format!("T#{tenant}#TV#{run}")
}

/// A version that was registered from a run.
pub fn version_of_run(id: &VersionId, run: &str) -> Key {
    key(
        versions_of_run(&id.tenant, run),
        format!("{}#{:010}", id.model.home(), id.number.get()),
    )
}

/// Partition of work of one kind.
pub fn work_partition(kind: &str) -> String {
    format!("W#{kind}")
}

/// Work that is due at a time.
pub fn work(kind: &str, due: Timestamp, subject: &str) -> Key {
    key(
        work_partition(kind),
        format!("{:013}#{}", due.millis(), hash(&[subject])),
    )
}

/// How far the sweep has read a shard of the stream.
pub fn outbox_checkpoint(shard: &str) -> Key {
    key(work_partition("outbox"), shard)
}

/// What the ULIDs of a millisecond begin with; in the order of keys it stands before all of them.
pub fn time_prefix(time: Timestamp) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut rest = time.millis();
    let mut digits = [b'0'; 10];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(rest % 32).unwrap_or(0)];
        rest /= 32;
    }
    String::from_utf8_lossy(&digits).into_owned()
}

/// When a ULID was made.
pub fn time_of(id: &str) -> Timestamp {
    Timestamp::from_millis(ulid::Ulid::from_string(id).map_or(0, |id| id.timestamp_ms()))
}

/// SHA-256 of texts, each led by its length so that no two lists of texts collide.
fn hash(texts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    hex::encode(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(model: &str, number: u64) -> VersionId {
        VersionId {
            tenant: TenantName::default_tenant(),
            model: ModelName::parse(model).unwrap(),
            number: VersionNumber::new(number).unwrap(),
        }
    }

    #[test]
    fn keys_are_as_drawn() {
        let tenant = TenantName::parse("team-a").unwrap();
        let iris = ModelName::parse("iris").unwrap();
        let champion = AliasName::parse("champion").unwrap();
        let text = |key: Key| format!("{} | {}", key.pk, key.sk);
        assert_eq!(text(model(&tenant, &iris)), "T#team-a#M | iris");
        assert_eq!(
            text(version(&id("iris", 7))),
            "T#default#M#iris | V#0000000007"
        );
        assert_eq!(
            text(alias(&tenant, &iris, &champion)),
            "T#team-a#M#iris | A#champion"
        );
        assert_eq!(
            text(history(&tenant, &iris, &champion, 42)),
            "T#team-a#M#iris | H#champion#0000000042"
        );
        assert_eq!(
            text(event(&tenant, &iris, "01J")),
            "T#team-a#M#iris | E#01J"
        );
        assert_eq!(
            text(version_document(&id("iris", 7), "metadata")),
            "T#default#D#iris#0000000007 | metadata"
        );
        assert_eq!(text(validation_policy(&tenant)), "T#team-a#P | validation");
        assert_eq!(
            text(feed(&tenant, Timestamp::from_millis(0), "01J")),
            "T#team-a#F#1970-01-01 | 01J"
        );
        let scope = Realm::Model(iris.clone());
        assert_eq!(
            text(settings_head(&tenant, &Realm::Registry)),
            "T#team-a#C | G#head"
        );
        assert_eq!(
            text(settings(&tenant, &scope, SettingsKind::Protections, 3)),
            "T#team-a#M#iris | G#protections#0000000003"
        );
        let stage = StageName::parse("Production").unwrap();
        assert_eq!(
            text(exclusive_stage(&tenant, &iris, &stage)),
            "T#team-a#M#iris | S#Production"
        );
        assert_eq!(
            text(request(&tenant, &iris, "01J")),
            "T#team-a#M#iris | R#01J"
        );
        for (target, expected) in [
            (PromotionTarget::Alias("champion".into()), "Q#A#champion"),
            (PromotionTarget::Stage("Live".into()), "Q#S#0000000001#Live"),
        ] {
            assert_eq!(
                open_request(&tenant, &iris, &target, VersionNumber::FIRST).sk,
                expected
            );
        }
        assert_eq!(text(inbox_entry(&tenant, "01J")), "T#team-a#R | 01J");
        assert_eq!(text(rollout(&tenant, "eu/score")), "T#team-a#O | eu/score");
        assert_eq!(
            text(rollout_revision(&tenant, "eu/score", 2)),
            "T#team-a#O#eu/score | 0000000002"
        );
        assert_eq!(
            text(rollout_of_model(&tenant, &iris, "eu/score")),
            "T#team-a#M#iris | O#eu/score"
        );
        assert_eq!(
            text(feed_entry(&tenant, Timestamp::from_millis(0), "01J")),
            "T#team-a#L#1970-01-01 | 01J"
        );
        let place = lane_place(&lane(Some("iris")), "01J");
        assert_eq!(
            text(waiting_delivery(&tenant, "01S", &place)),
            format!("T#team-a#Y#01S | {}#01J", &hash(&["iris"])[..16])
        );
        assert_eq!(
            text(dead_letter(&tenant, "01S", "01E")),
            "T#team-a#Z#01S | 01E"
        );
        assert_eq!(
            text(experiment(&tenant, ExperimentId::new(7))),
            "T#team-a#TX | 00000000000000000007"
        );
        assert_eq!(text(tracked(&tenant, "m-1")), "T#team-a#TI#m-1 | #");
        assert_eq!(newest_first(0, "a"), "7fffffffffffffff#a");
        let run = Key {
            pk: runs(&tenant, ExperimentId::DEFAULT),
            sk: newest_first(1_700_000_000_000, "a"),
        };
        assert_eq!(
            text(section(&run, "params", 3)),
            "T#team-a#TR#0 | 7ffffe74301a97ff#a#params#03"
        );
        assert_eq!(
            text(version_of_run(&id("iris", 7), "a")),
            "T#default#TV#a | iris#0000000007"
        );
        assert_eq!(
            text(work("validate", Timestamp::from_millis(5), "x")),
            format!("W#validate | 0000000000005#{}", hash(&["x"]))
        );
    }

    #[test]
    fn the_time_of_an_id_is_its_first_ten_characters() {
        // The example of the ULID specification: <https://github.com/ulid/spec>.
        let time = Timestamp::from_millis(1_469_918_176_385);
        assert_eq!(time_prefix(time), "01ARYZ6S41");
        assert_eq!(time_of("01ARYZ6S41TSV4RRFFQ69G5FAV"), time);
    }

    proptest! {
        #[test]
        fn what_began_later_sorts_first(left in any::<i64>(), right in any::<i64>()) {
            prop_assert_eq!(right.cmp(&left), newest_first(left, "a").cmp(&newest_first(right, "a")));
        }

        #[test]
        fn two_versions_never_share_a_key(
            left in "[a-c#0-1]{1,14}", left_number in 1_u64..12, right in "[a-c#0-1]{1,14}", right_number in 1_u64..12
        ) {
            let (left, right) = (id(&left, left_number), id(&right, right_number));
            prop_assert_eq!(left == right, version(&left) == version(&right));
            prop_assert_eq!(left == right, version_document(&left, "notes") == version_document(&right, "notes"));
        }
    }
}
