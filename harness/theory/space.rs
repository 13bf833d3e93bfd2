//! The data of the toy model, and tokenizations of it.

/// Maximum number of classes: time grows with its sixth power.
pub const MOST_CLASSES: usize = 32;
/// Maximum number of points of a class; counts are exact in f64.
const MOST: u64 = 1_000_000_000;

/// `classes` sets of `points` points each. Every two of them share `overlap` points, and no three share one. A datum is a class and an
/// ordered pair of its points, all equally likely: the unmasked view and the masked view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Number of classes, `s` in appendix C.
    pub classes: usize,
    /// Points of a class, `n`.
    pub points: u64,
    /// Points that two classes share, `m`.
    pub overlap: u64,
}

/// The points that belong to the same classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The class.
    pub class: usize,
    /// The second class of shared points.
    pub other: Option<usize>,
    /// Number of points.
    pub size: u64,
}

impl Region {
    /// Returns whether its points belong to `class`.
    pub fn is_in(&self, class: usize) -> bool {
        self.class == class || self.other == Some(class)
    }

    /// Returns the number of classes of its points, 1 or 2.
    pub fn degree(&self) -> f64 {
        self.common(self)
    }

    /// Returns the number of classes that points of both regions belong to.
    pub fn common(&self, other: &Self) -> f64 {
        let second = self.other.is_some_and(|class| other.is_in(class));
        f64::from(u8::from(other.is_in(self.class)) + u8::from(second))
    }

    /// Returns its name: `P1 only`, or `P1 and P2`.
    pub fn name(&self) -> String {
        match self.other {
            None => format!("P{} only", self.class + 1),
            Some(other) => format!("P{} and P{}", self.class + 1, other + 1),
        }
    }
}

impl Space {
    /// Creates the data.
    ///
    /// # Errors
    /// Which number is wrong, what was found and what is expected.
    pub fn new(classes: usize, points: u64, overlap: u64) -> Result<Self, String> {
        if !(2..=MOST_CLASSES).contains(&classes) {
            return Err(format!(
                "--classes: found {classes}, expected 2 to {MOST_CLASSES}"
            ));
        }
        if !(1..=MOST).contains(&points) {
            return Err(format!("--points: found {points}, expected 1 to {MOST}"));
        }
        let most = (points - 1) / (classes as u64 - 1);
        if overlap > most {
            return Err(format!(
                "--overlap: found {overlap}, expected at most {most}, because a class of {points} points shares as many with each of the \
                 {} others and has points of its own",
                classes - 1
            ));
        }
        Ok(Self {
            classes,
            points,
            overlap,
        })
    }

    /// Returns `m / n`.
    pub fn t(&self) -> f64 {
        self.overlap as f64 / self.points as f64
    }

    /// Returns the regions: each class's own points, then those shared by 1 and 2, 1 and 3, ..., 2 and 3, and so on.
    pub fn regions(&self) -> Vec<Region> {
        let own = self.points - (self.classes as u64 - 1) * self.overlap;
        let region = |class, other, size| Region { class, other, size };
        let mut all: Vec<Region> = (0..self.classes)
            .map(|class| region(class, None, own))
            .collect();
        for class in 0..self.classes {
            let others = class + 1..self.classes;
            all.extend(others.map(|other| region(class, Some(other), self.overlap)));
        }
        all
    }

    /// Returns the number of points, `s n - m s (s - 1) / 2`.
    pub fn size(&self) -> u64 {
        self.regions().iter().map(|region| region.size).sum()
    }

    /// Returns the tokenization of MAE: every point is a token.
    pub fn mae_like(&self) -> Partition {
        let regions = self.regions();
        let token = |(at, region): (usize, &Region)| {
            let mut members = vec![0; regions.len()];
            members[at] = 1;
            Token {
                copies: region.size,
                members,
            }
        };
        Partition {
            name: "MAE-like".into(),
            tokens: regions.iter().enumerate().map(token).collect(),
        }
    }

    /// Returns a token per class: its own points and half of those that it shares with each other class.
    ///
    /// # Errors
    /// If the shared points cannot be halved.
    pub fn class_wise(&self) -> Result<Partition, String> {
        if !self.overlap.is_multiple_of(2) {
            return Err(format!(
                "--overlap: found {}, expected an even number, because class-wise tokens halve the shared points",
                self.overlap
            ));
        }
        let token = |class| {
            let members = self.regions().into_iter().map(|region| {
                let part = if region.other.is_some() { 2 } else { 1 };
                if region.is_in(class) {
                    region.size / part
                } else {
                    0
                }
            });
            Token {
                copies: 1,
                members: members.collect(),
            }
        };
        Ok(Partition {
            name: "class-wise".into(),
            tokens: (0..self.classes).map(token).collect(),
        })
    }

    /// Returns `count` tokens, each with an equal part of every region.
    ///
    /// # Errors
    /// If a region cannot be split into so many equal parts.
    pub fn cross_class(&self, count: u64) -> Result<Partition, String> {
        let regions = self.regions();
        let odd = (regions.iter()).find(|region| count == 0 || region.size % count != 0);
        if let Some(region) = odd {
            return Err(format!(
                "--tokens: found {count}, expected a divisor of the {} points in {}, because cross-class tokens have equal parts of each region",
                region.size,
                region.name()
            ));
        }
        let members = regions.iter().map(|region| region.size / count).collect();
        Ok(Partition {
            name: "cross-class".into(),
            tokens: vec![Token {
                copies: count,
                members,
            }],
        })
    }

    /// Parses a tokenization: tokens separated by `;`, each a list of its numbers of points in every region, separated by commas.
    ///
    /// # Errors
    /// What was found and what is expected: a number per region, and sums that are the sizes of the regions (equation 26).
    pub fn partition(&self, text: &str) -> Result<Partition, String> {
        let regions = self.regions();
        let token = |part: &str| {
            let members = part.split(',').map(|number| {
                number.trim().parse::<u64>().map_err(|_| {
                    format!(
                        "--partition: found {:?}, expected a number of points",
                        number.trim()
                    )
                })
            });
            let members: Vec<u64> = members.collect::<Result<_, String>>()?;
            match members.len() == regions.len() && members.iter().any(|count| *count > 0) {
                true => Ok(Token { copies: 1, members }),
                false => Err(format!(
                    "--partition: found the token {:?}, expected {} numbers that are not all 0, one for each of: {}",
                    part.trim(),
                    regions.len(),
                    Vec::from_iter(regions.iter().map(Region::name)).join(", ")
                )),
            }
        };
        let tokens: Vec<Token> = text.split(';').map(token).collect::<Result<_, String>>()?;
        for (at, region) in regions.iter().enumerate() {
            let sum = (tokens.iter()).fold(0_u64, |sum, t| sum.saturating_add(t.members[at]));
            if sum != region.size {
                return Err(format!(
                    "--partition: found {sum} points of {} in all tokens, expected {}",
                    region.name(),
                    region.size
                ));
            }
        }
        Ok(Partition {
            name: "given".into(),
            tokens,
        })
    }
}

/// Tokens with the same numbers of points in every region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Number of such tokens.
    pub copies: u64,
    /// Points of one token in each of [`Space::regions`].
    pub members: Vec<u64>,
}

/// A tokenization: equivalence classes of points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Name in the tables.
    pub name: String,
    /// Its tokens.
    pub tokens: Vec<Token>,
}

impl Partition {
    /// Returns the number of tokens.
    pub fn count(&self) -> u64 {
        self.tokens.iter().map(|token| token.copies).sum()
    }
}
