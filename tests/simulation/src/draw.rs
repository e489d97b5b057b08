//! What clients ask for, at random.
//!
//! A seed has a profile: what is asked for often in it. What two processes must do at the same moment to meet is rare if
//! everything is asked for alike, and happens in a few seeds of the profile that is about it.

use crate::wishes::{Believed, Decision, Expected, Wish, settings_path};
use fastrand::Rng;
use std::collections::BTreeMap;

/// The names of registered models in a run; each run begins with the first two.
pub const MODELS: [&str; 6] = ["iris", "mnist", "rose", "fern", "lily", "moss"];
/// The aliases of each.
pub const ALIASES: [&str; 2] = ["champion", "canary"];
const STAGES: [&str; 3] = ["Staging", "Production", "Archived"];
const PLACES: [&str; 2] = ["score", "rank"];

/// What is drawn.
#[derive(Debug, Clone, Copy)]
enum Kind {
    CreateModel,
    DeleteModel,
    RestoreModel,
    Rename,
    Describe,
    Register,
    Judge,
    Rejudge,
    Finalize,
    Pack,
    Purge,
    SetAlias,
    RemoveAlias,
    RollBack,
    ChangeStage,
    SetLifecycle,
    Annotate,
    DeleteVersion,
    RestoreVersion,
    GetAlias,
    ListVersions,
    RequestPromotion,
    Decide,
    AnswerCheck,
    PutStages,
    PutProtections,
    GrantWaiver,
    RevokeWaiver,
    PutRollout,
    RollRolloutBack,
    Sweep,
    Dispatch,
}

/// What a seed is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Theme {
    Everything,
    Aliases,
    Deletions,
    Approvals,
    Stages,
    Rollouts,
    Names,
    Versions,
    Files,
    Settings,
    /// What is promoted rests on what the version is.
    Fitness,
    /// Names are given away while all else goes on.
    Renames,
}

const THEMES: [Theme; 12] = [
    Theme::Everything,
    Theme::Aliases,
    Theme::Deletions,
    Theme::Approvals,
    Theme::Stages,
    Theme::Rollouts,
    Theme::Names,
    Theme::Versions,
    Theme::Files,
    Theme::Settings,
    Theme::Fitness,
    Theme::Renames,
];

/// How often each is drawn, by theme.
#[rustfmt::skip]
const WEIGHTS: [(Kind, [u32; THEMES.len()]); 32] = [
    //                        all  ali  del  app  sta  rol  nam  ver  fil  set  fit  ren
    (Kind::CreateModel,      [ 3,   0,   2,   1,   1,   1,  12,   0,   3,   1,   0,  14]),
    (Kind::DeleteModel,      [ 2,   0,  16,   2,   2,   8,   8,   0,  10,   4,   0,   4]),
    (Kind::RestoreModel,     [ 3,   0,  14,   3,   3,   8,   8,   0,   8,   4,   0,   4]),
    (Kind::Rename,           [ 3,   2,   3,   5,   5,   5,  22,   3,   4,   5,   2,  30]),
    (Kind::Describe,         [ 1,   0,   2,   1,   0,   0,   3,   3,   0,   1,   0,   6]),
    (Kind::Register,         [10,   4,   6,   5,   6,   5,   7,  10,  12,   3,   3,  12]),
    (Kind::Judge,            [18,  10,  12,  10,  12,  10,  12,  20,  20,   8,   8,  16]),
    (Kind::Rejudge,          [ 4,   6,   3,   4,   4,   6,   2,  24,   2,   4,  24,   2]),
    (Kind::Finalize,         [ 2,   0,   3,   0,   0,   0,   2,  12,   0,   0,   0,   3]),
    (Kind::Pack,             [ 3,   0,   0,   0,   0,   0,   3,   3,  40,   0,   0,   6]),
    (Kind::Purge,            [ 1,   0,   2,   0,   2,   0,   1,   1,  24,   0,   0,   4]),
    (Kind::SetAlias,         [17,  44,  12,   8,   0,   0,  10,  10,   2,  14,  40,  12]),
    (Kind::RemoveAlias,      [ 6,  16,   8,   4,   0,   0,   5,   3,   2,   5,   8,   5]),
    (Kind::RollBack,         [ 7,  16,   2,   4,   0,   0,   3,   2,   0,   6,   8,   3]),
    (Kind::ChangeStage,      [12,   0,   4,   4,  54,   0,   8,   6,   0,  16,  26,  10]),
    (Kind::SetLifecycle,     [ 3,   8,   1,   1,   2,   0,   3,  22,   0,   0,   8,   8]),
    (Kind::Annotate,         [ 2,   4,   3,   2,   2,   0,   2,  22,   0,   4,  26,   8]),
    (Kind::DeleteVersion,    [ 5,  14,  18,   8,   9,  14,   5,  10,  26,   1,   4,   5]),
    (Kind::RestoreVersion,   [ 3,  10,  12,   5,   9,  10,   5,   6,  16,   1,   4,   6]),
    (Kind::GetAlias,         [ 5,   6,   1,   1,   0,   0,   2,   1,   0,   1,   1,   1]),
    (Kind::ListVersions,     [ 1,   0,   0,   0,   1,   0,   1,   1,   0,   0,   0,   0]),
    (Kind::RequestPromotion, [12,   0,  16,  40,  16,   0,   9,   0,   0,  12,  12,   8]),
    (Kind::Decide,           [20,   0,  20,  60,  20,   0,  12,   0,   0,  16,  14,   8]),
    (Kind::AnswerCheck,      [ 2,   0,   2,  14,   2,   0,   1,   0,   0,   5,   0,   2]),
    (Kind::PutStages,        [ 3,   0,   0,   1,   5,   0,   2,   0,   0,  16,   1,   3]),
    (Kind::PutProtections,   [ 2,   0,   0,   6,   2,   0,   2,   0,   0,  16,   2,   4]),
    (Kind::GrantWaiver,      [ 2,   0,   0,   4,   1,   0,   2,   0,   0,  10,   0,   2]),
    (Kind::RevokeWaiver,     [ 2,   0,   0,   3,   1,   0,   1,   0,   0,   8,   0,   1]),
    (Kind::PutRollout,       [ 8,   0,  14,   0,   0,  60,   8,   0,   0,   0,   0,   6]),
    (Kind::RollRolloutBack,  [ 2,   0,   2,   0,   0,  12,   1,   0,   0,   0,   0,   1]),
    (Kind::Sweep,            [ 3,   1,   1,   8,   2,   1,   2,   8,   4,   1,   1,   2]),
    (Kind::Dispatch,         [ 4,   3,   4,   2,   4,   2,   4,   5,   2,   2,   2,   6]),
];

/// What is asked for in a seed, and how roughly its calls are treated.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    theme: Theme,
    /// Whether most wishes are about the same few things.
    is_hot: bool,
    /// Whether processes die often, so that what they sent arrives late.
    pub is_deadly: bool,
}

/// What a client knows when it draws a wish.
#[derive(Debug)]
pub struct Known<'a> {
    /// The highest number of a version.
    pub versions: u32,
    /// Versions that can be promoted.
    pub ready: &'a [u32],
    /// Versions that wait for their judgement.
    pub pending: &'a [u32],
    /// Versions that are deleted.
    pub deleted: &'a [u32],
    /// Open promotion requests.
    pub requests: &'a [String],
    /// Revisions that answers showed, by what they are of.
    pub revisions: &'a BTreeMap<String, u64>,
}

impl Profile {
    /// The profile of a seed.
    pub fn of(seed: u64) -> Self {
        let number = usize::try_from(seed % 12).unwrap_or_default();
        Self {
            theme: THEMES[number],
            is_hot: seed / 12 % 2 == 1,
            is_deadly: seed / 24 % 3 == 1,
        }
    }

    /// The names that models get.
    fn names(self) -> &'static [&'static str] {
        // A model is renamed for the first time once, and that is what most depends on.
        match self.theme {
            Theme::Names | Theme::Renames => &MODELS,
            _ => &MODELS[..3],
        }
    }

    /// How many of a hundred wishes are about a model that is there.
    pub fn realism(self) -> u8 {
        match self.theme {
            Theme::Names | Theme::Renames => 80,
            _ => 95,
        }
    }

    /// Draws which model a wish is about.
    pub fn model(self, rng: &mut Rng) -> &'static str {
        if matches!(self.theme, Theme::Names | Theme::Renames) {
            return self.names()[rng.usize(..self.names().len())];
        }
        match rng.u8(..100) {
            0..60 => MODELS[0],
            60..90 if self.is_hot => MODELS[0],
            60..90 => MODELS[1],
            _ => MODELS[2],
        }
    }

    fn kind(self, rng: &mut Rng) -> Kind {
        let column = self.theme as usize;
        let total: u32 = WEIGHTS.iter().map(|(_, weights)| weights[column]).sum();
        let mut drawn = rng.u32(..total);
        for (kind, weights) in WEIGHTS {
            if drawn < weights[column] {
                return kind;
            }
            drawn -= weights[column];
        }
        Kind::ListVersions
    }

    /// Draws a version, most often one of those that are likely to do.
    fn among(self, rng: &mut Rng, likely: &[u32], versions: u32) -> u32 {
        let likely = if self.is_hot {
            &likely[..likely.len().min(2)]
        } else {
            likely
        };
        match rng.u8(..) {
            0..200 if !likely.is_empty() => likely[rng.usize(..likely.len())],
            0..240 => rng.u32(1..=versions.max(1)),
            _ => rng.u32(versions.max(1)..=versions + 1),
        }
    }

    /// Draws a wish; versions go up to one more than there are.
    pub fn draw(
        self,
        rng: &mut Rng,
        model: &str,
        known: &Known<'_>,
        believed: impl Fn(&'static str) -> Option<Believed>,
    ) -> Wish {
        let kind = self.kind(rng);
        let likely = match kind {
            Kind::Judge | Kind::Finalize => known.pending,
            Kind::RestoreVersion | Kind::Purge => known.deleted,
            _ => known.ready,
        };
        let version = self.among(rng, likely, known.versions);
        let alias = match self.is_hot {
            _ if self.theme == Theme::Fitness => ALIASES[1],
            true if rng.u8(..100) < 80 => ALIASES[0],
            _ => ALIASES[rng.usize(..ALIASES.len())],
        };
        let seen = believed(alias);
        let expected = match (rng.u8(..100), seen) {
            (0..50, Some(seen)) => Expected::Held(seen.version),
            (0..50, None) => Expected::Held(None),
            (50..60, _) => Expected::Held(Some(version)),
            _ => Expected::Anything,
        };
        let sequence = seen
            .filter(|_| rng.u8(..100) < 30)
            .map(|seen| seen.sequence);
        let revision = |path: &str| known.revisions.get(path).copied().unwrap_or_default();
        let request = |rng: &mut Rng| match known.requests {
            [] => "none".to_owned(),
            open => open[rng.usize(..open.len())].clone(),
        };
        let place = if self.is_hot {
            PLACES[0]
        } else {
            PLACES[rng.usize(..PLACES.len())]
        };
        match kind {
            Kind::CreateModel => Wish::CreateModel {
                replace: rng.bool(),
            },
            Kind::DeleteModel => Wish::DeleteModel,
            Kind::RestoreModel => Wish::RestoreModel,
            Kind::Rename => Wish::Rename {
                to: self.names()[rng.usize(..self.names().len())],
            },
            Kind::Describe => Wish::Describe,
            Kind::Register => Wish::Register,
            Kind::Judge => Wish::Judge {
                version,
                ready: rng.u8(..100) < 93,
            },
            Kind::Rejudge => Wish::Rejudge {
                version,
                verdict: rng.usize(..crate::wishes::VERDICTS.len()),
            },
            Kind::Finalize => Wish::Finalize { version },
            Kind::Pack => Wish::Pack { version },
            Kind::Purge => Wish::Purge { version },
            Kind::SetAlias => Wish::SetAlias {
                alias,
                version,
                expected,
                sequence,
            },
            Kind::RemoveAlias => Wish::RemoveAlias {
                alias,
                expected,
                sequence,
            },
            Kind::RollBack => Wish::RollBack {
                alias,
                to: (rng.u8(..100) < 30).then_some(version),
                sequence,
            },
            Kind::ChangeStage => Wish::ChangeStage {
                version,
                stage: STAGES[rng.usize(..STAGES.len())],
                expected: (rng.u8(..100) < 40).then_some("None"),
            },
            Kind::SetLifecycle => Wish::SetLifecycle {
                version,
                hour: (rng.u8(..3) > 0).then(|| rng.u8(9..=20)),
                end: (rng.u8(..3) > 0).then(|| rng.u8(20..=23)),
            },
            Kind::Annotate => Wish::Annotate {
                version,
                fit: rng.u8(..100) < 70,
                mark: rng.u8(..9),
            },
            Kind::DeleteVersion => Wish::DeleteVersion { version },
            Kind::RestoreVersion => Wish::RestoreVersion { version },
            Kind::GetAlias => Wish::GetAlias { alias },
            Kind::ListVersions => Wish::ListVersions,
            Kind::RequestPromotion => {
                let to_alias = rng.u8(..100) < if self.theme == Theme::Stages { 20 } else { 65 };
                Wish::RequestPromotion {
                    version,
                    alias: to_alias.then_some(alias),
                    stage: (!to_alias).then_some(STAGES[rng.usize(..2)]),
                }
            }
            Kind::AnswerCheck => Wish::AnswerCheck {
                id: request(rng),
                passed: rng.u8(..100) < 75,
            },
            Kind::Decide => {
                let id = request(rng);
                let decision = match rng.u8(..100) {
                    0..65 => Decision::Approve,
                    65..78 => Decision::Reject,
                    78..90 => Decision::Withdraw,
                    _ => Decision::Promote,
                };
                Wish::Decide { id, decision }
            }
            Kind::PutStages => {
                let of_model = rng.bool();
                Wish::PutStages {
                    of_model,
                    rules: rng.usize(..crate::wishes::STAGE_RULES.len()),
                    revision: revision(&settings_path("stages", of_model, model)),
                }
            }
            Kind::PutProtections => {
                let of_model = rng.bool();
                Wish::PutProtections {
                    of_model,
                    rules: rng.usize(..crate::wishes::PROTECTIONS.len()),
                    revision: revision(&settings_path("protections", of_model, model)),
                }
            }
            Kind::GrantWaiver => Wish::GrantWaiver,
            Kind::RevokeWaiver => Wish::RevokeWaiver,
            Kind::PutRollout => {
                let count = rng.usize(..3);
                let mut versions: Vec<u32> = (0..count)
                    .map(|_| self.among(rng, known.ready, known.versions))
                    .collect();
                versions.sort_unstable();
                versions.dedup();
                Wish::PutRollout {
                    place,
                    versions,
                    revision: revision(place),
                }
            }
            Kind::RollRolloutBack => Wish::RollRolloutBack { place },
            Kind::Sweep => Wish::Sweep,
            Kind::Dispatch => Wish::Dispatch {
                salt: rng.usize(..100),
            },
        }
    }

    /// Whether something is asked for before a promotion.
    fn is_guarded(self) -> bool {
        let column = self.theme as usize;
        WEIGHTS
            .iter()
            .any(|(kind, weights)| matches!(kind, Kind::PutProtections) && weights[column] > 0)
    }

    /// The wishes with which a run begins, of which model each.
    pub fn first(self, number: usize) -> Option<(&'static str, Wish)> {
        let version = |from: usize| u32::try_from(number - from).unwrap_or_default();
        let is_known = self.theme != Theme::Everything;
        match number {
            0 | 1 => Some((MODELS[number], Wish::CreateModel { replace: false })),
            2 if self.is_guarded() => Some((
                MODELS[0],
                Wish::PutProtections {
                    of_model: false,
                    rules: if self.theme == Theme::Fitness { 4 } else { 0 },
                    revision: 0,
                },
            )),
            2..7 if is_known => Some((MODELS[0], Wish::Register)),
            7..11 if is_known => Some((
                MODELS[0],
                Wish::Judge {
                    version: version(6),
                    ready: true,
                },
            )),
            11..13 if is_known => Some((MODELS[1], Wish::Register)),
            13..15 if is_known => Some((
                MODELS[1],
                Wish::Judge {
                    version: version(12),
                    ready: true,
                },
            )),
            _ => None,
        }
    }
}
