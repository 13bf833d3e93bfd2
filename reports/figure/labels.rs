//! Positions for the names of points: no name covers another name or a mark, and a line joins a name to a mark that is not beside it.

use super::svg::Anchor;

/// A point of the drawing, in pixels.
type At = (f64, f64);

/// Width of a letter of size 10: DejaVu Sans is about 0.6 em wide.
pub(super) const LETTER: f64 = 6.0;
const HEIGHT: f64 = 11.0;
/// Distance between the base line of a text and the top of its box.
const ASCENT: f64 = 9.0;
/// Half the width of a mark.
const MARK: f64 = 5.0;
/// A name without a line must be nearer to its own mark than to any other by this much.
const CLEAR: f64 = 6.0;
/// A name with a line must be this far from other marks, because it seems to belong to a mark beside it.
const APART: f64 = 14.0;

/// The corners of a rectangle.
#[derive(Clone, Copy)]
struct Area {
    low: At,
    high: At,
}

impl Area {
    fn overlaps(&self, other: &Self) -> bool {
        self.low.0 < other.high.0
            && other.low.0 < self.high.0
            && self.low.1 < other.high.1
            && other.low.1 < self.high.1
    }

    fn within(&self, outer: &Self) -> bool {
        self.low.0 >= outer.low.0
            && self.low.1 >= outer.low.1
            && self.high.0 <= outer.high.0
            && self.high.1 <= outer.high.1
    }

    /// Returns the nearest point of the rectangle.
    fn nearest(&self, (x, y): At) -> At {
        (
            x.clamp(self.low.0, self.high.0),
            y.clamp(self.low.1, self.high.1),
        )
    }

    fn around((x, y): At, half: f64) -> Self {
        Self {
            low: (x - half, y - half),
            high: (x + half, y + half),
        }
    }
}

/// Where a name goes.
pub(super) struct Label {
    /// Position of the text.
    pub at: At,
    /// The point of the text at that position.
    pub anchor: Anchor,
    /// The line from the mark to the text, if another mark could be meant.
    pub line: Option<(At, At)>,
    area: Area,
}

impl Label {
    fn new(at: At, anchor: Anchor, width: f64) -> Self {
        let left = match anchor {
            Anchor::Start => at.0,
            Anchor::Middle => at.0 - width / 2.0,
            Anchor::End => at.0 - width,
        };
        let low = (left, at.1 - ASCENT);
        let high = (left + width, low.1 + HEIGHT);
        Self {
            at,
            anchor,
            line: None,
            area: Area { low, high },
        }
    }

    /// Adds the line from the mark's edge to the nearest point of the text.
    fn with_line(self, mark: At) -> Self {
        let end = self.area.nearest(mark);
        let length = distance(mark, end).max(f64::MIN_POSITIVE);
        let part = (MARK / length).min(1.0);
        let start = (
            mark.0 + (end.0 - mark.0) * part,
            mark.1 + (end.1 - mark.1) * part,
        );
        Self {
            line: Some((start, end)),
            ..self
        }
    }
}

/// How often names with conflicts look for a better place.
const PASSES: usize = 4;
/// More names do not all fit into a plot. Of them, those with a free place beside their mark are drawn.
const CROWD: usize = 60;

/// Marks, and the names placed so far.
struct Labels {
    bounds: Area,
    marks: Vec<At>,
    /// By mark.
    placed: Vec<Option<Label>>,
}

/// Places the names of `marks` between the corners `low` and `high`: beside a mark if it is clear whose name it is, else at the nearest free
/// place with a line. If no place is free, a name takes one with the fewest conflicts. `None` for a name that is wider than the plot, and, in a
/// crowd, for one without a free place beside its mark.
pub(super) fn place(marks: Vec<At>, names: &[String], low: At, high: At) -> Vec<Option<Label>> {
    let mut labels = Labels {
        bounds: Area { low, high },
        placed: marks.iter().map(|_| None).collect(),
        marks,
    };
    let width = |own: usize| names[own].chars().count() as f64 * LETTER;
    // Long names have the fewest places, so they come first.
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|a, b| width(*b).total_cmp(&width(*a)));
    if names.len() > CROWD {
        // Short names leave more places free.
        for own in order.into_iter().rev() {
            labels.placed[own] = labels.free(own, width(own));
        }
        return labels.placed;
    }
    for pass in 0..PASSES {
        for own in order.iter().copied() {
            let free = |label: &Label| labels.conflicts(own, label, 1) == 0;
            if pass == 0 || !labels.placed[own].as_ref().is_none_or(free) {
                labels.placed[own] = labels.best(own, width(own));
            }
        }
    }
    labels.placed
}

impl Labels {
    /// Returns the place with the fewest conflicts, the first of equal ones.
    fn best(&self, own: usize, width: f64) -> Option<Label> {
        let mark = self.marks[own];
        let mut best: Option<(usize, Label)> = None;
        for label in beside(mark, width).chain(rings(mark, width)) {
            if !label.area.within(&self.bounds) {
                continue;
            }
            let least = best.as_ref().map_or(usize::MAX, |(least, _)| *least);
            let conflicts = self.conflicts(own, &label, least);
            if conflicts < least {
                best = Some((conflicts, label));
            }
            if conflicts == 0 {
                break;
            }
        }
        best.map(|(_, label)| label)
    }

    /// Returns the first free place that touches the mark.
    fn free(&self, own: usize, width: f64) -> Option<Label> {
        let is_free =
            |label: &Label| label.area.within(&self.bounds) && self.conflicts(own, label, 1) == 0;
        beside(self.marks[own], width).find(is_free)
    }

    /// Returns 0 for a free place. A covered name or mark counts most, then a line through one, then lines that cross. Most places cover
    /// something, so the count ends with what is covered if that alone is `enough`.
    fn conflicts(&self, own: usize, label: &Label, enough: usize) -> usize {
        let area = &label.area;
        let mark = |at: &At| Area::around(*at, MARK);
        let others = || self.placed.iter().enumerate().filter(|(at, _)| *at != own);
        let names = || others().filter_map(|(_, other)| Some(&other.as_ref()?.area));
        let lines = || others().filter_map(|(_, other)| other.as_ref()?.line);
        let marks = || self.marks.iter().enumerate().filter(|(at, _)| *at != own);
        let covered = names().filter(|name| name.overlaps(area)).count()
            + self
                .marks
                .iter()
                .filter(|at| mark(at).overlaps(area))
                .count();
        if 100 * covered >= enough {
            return 100 * covered;
        }
        let through = lines().filter(|line| crosses(*line, area)).count();
        let from = |at: &At| distance(area.nearest(*at), *at);
        let own = from(&self.marks[own]);
        100 * covered
            + 10 * through
            + match label.line {
                None => marks().filter(|(_, at)| from(at) < own + CLEAR).count(),
                Some(line) => {
                    let names = names().filter(|name| crosses(line, name));
                    let marks = marks().filter(|(_, at)| crosses(line, &mark(at)));
                    let lines = lines().filter(|other| meet(line, *other));
                    let beside = self.marks.iter().filter(|at| from(at) < APART);
                    10 * (names.count() + marks.count()) + 3 * beside.count() + lines.count()
                }
            }
    }
}

/// The places that touch the mark.
fn beside((x, y): At, width: f64) -> impl Iterator<Item = Label> {
    let places = [
        (8.0, 3.5, Anchor::Start),
        (-8.0, 3.5, Anchor::End),
        (0.0, -10.0, Anchor::Middle),
        (0.0, 18.0, Anchor::Middle),
        (8.0, -9.0, Anchor::Start),
        (8.0, 16.0, Anchor::Start),
        (-8.0, -9.0, Anchor::End),
        (-8.0, 16.0, Anchor::End),
    ];
    places
        .into_iter()
        .map(move |(dx, dy, anchor)| Label::new((x + dx, y + dy), anchor, width))
}

/// Places with a line, on growing circles around the mark.
fn rings(mark: At, width: f64) -> impl Iterator<Item = Label> {
    let places = (1..=40).flat_map(|ring| (0..24).map(move |step| (ring, step)));
    places.map(move |(ring, step)| {
        let radius = 12.0 + 8.0 * f64::from(ring);
        let (sin, cos) = (f64::from(step) * std::f64::consts::TAU / 24.0).sin_cos();
        let anchor = match cos {
            cos if cos > 0.2 => Anchor::Start,
            cos if cos < -0.2 => Anchor::End,
            _ => Anchor::Middle,
        };
        // The box, not the base line, is centred on the circle.
        let at = (mark.0 + radius * cos, mark.1 + radius * sin + 3.5);
        Label::new(at, anchor, width).with_line(mark)
    })
}

fn distance(a: At, b: At) -> f64 {
    (a.0 - b.0).hypot(a.1 - b.1)
}

/// Returns twice the signed area of a triangle.
fn side(a: At, b: At, c: At) -> f64 {
    (b.0 - a.0) * (c.1 - a.1) - (b.1 - a.1) * (c.0 - a.0)
}

/// Whether two lines cross.
fn meet(one: (At, At), two: (At, At)) -> bool {
    let opposite = |line: (At, At), of: (At, At)| {
        side(line.0, line.1, of.0) * side(line.0, line.1, of.1) < 0.0
    };
    opposite(one, two) && opposite(two, one)
}

/// Whether a line enters a rectangle.
fn crosses(line: (At, At), area: &Area) -> bool {
    let inside =
        |at: At| at.0 > area.low.0 && at.0 < area.high.0 && at.1 > area.low.1 && at.1 < area.high.1;
    let corners = [
        area.low,
        (area.high.0, area.low.1),
        area.high,
        (area.low.0, area.high.1),
    ];
    let edges = (0..4).map(|at| (corners[at], corners[(at + 1) % 4]));
    inside(line.0) || inside(line.1) || edges.into_iter().any(|edge| meet(line, edge))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places names of `letters` letters for `marks`, and returns their boxes and lines.
    fn placed(marks: &[At], letters: usize) -> (Vec<Area>, Vec<Option<(At, At)>>) {
        let names = vec!["x".repeat(letters); marks.len()];
        let all = place(marks.to_vec(), &names, (72.0, 46.0), (616.0, 382.0));
        let all: Vec<Label> = all
            .into_iter()
            .map(|label| label.expect("it fits"))
            .collect();
        (
            all.iter().map(|label| label.area).collect(),
            all.iter().map(|label| label.line).collect(),
        )
    }

    /// No name covers another or a mark.
    fn assert_uncovered(areas: &[Area], marks: &[At]) {
        for (at, area) in areas.iter().enumerate() {
            assert!(!areas[..at].iter().any(|other| other.overlaps(area)));
            let covers = |mark: &At| Area::around(*mark, MARK).overlaps(area);
            assert!(!marks.iter().any(covers));
        }
    }

    #[test]
    fn a_single_name_stands_beside_its_mark_without_a_line() {
        let (areas, lines) = placed(&[(300.0, 200.0)], 12);
        assert!(lines[0].is_none());
        assert_eq!(areas[0].low, (308.0, 194.5));
    }

    #[test]
    fn twenty_names_of_marks_that_almost_touch_are_all_drawn_and_none_covers_another() {
        let marks: Vec<At> = (0..20)
            .map(|at| {
                (
                    300.0 + f64::from(at % 5) * 7.0,
                    200.0 + f64::from(at / 5) * 7.0,
                )
            })
            .collect();
        let (areas, lines) = placed(&marks, 22);
        assert_uncovered(&areas, &marks);
        assert!(lines.iter().filter(|line| line.is_some()).count() >= 10);
    }

    #[test]
    fn a_name_beside_two_marks_has_a_line_to_its_own() {
        let (_, lines) = placed(&[(300.0, 200.0), (300.0, 203.0)], 22);
        let (start, end) = lines[0].expect("the other mark is as near");
        assert!(distance(start, (300.0, 200.0)) < MARK + 0.01 && distance(start, end) > 1.0);
    }

    #[test]
    fn a_name_with_a_line_is_not_beside_another_mark() {
        let marks: Vec<At> = (0..9)
            .map(|at| (90.0 + 60.0 * f64::from(at), 200.0))
            .collect();
        // Names are wider than the gaps between marks.
        let (areas, lines) = placed(&marks, 22);
        assert!(lines.iter().any(Option::is_some));
        for (own, area) in areas
            .iter()
            .enumerate()
            .filter(|(own, _)| lines[*own].is_some())
        {
            let near = |at: &At| distance(area.nearest(*at), *at);
            assert!(marks.iter().all(|at| near(at) >= APART), "{own}");
        }
    }

    /// A report of 100 tokenizers took 37 seconds, almost all of them here.
    #[test]
    fn a_crowd_has_the_names_that_are_free_beside_their_marks() {
        let apart = (0..63).map(|at| {
            (
                90.0 + f64::from(at % 9) * 60.0,
                80.0 + f64::from(at / 9) * 40.0,
            )
        });
        let crowd = (0..40).map(|at| (300.0 + f64::from(at) / 10.0, 200.0));
        let marks: Vec<At> = apart.chain(crowd).collect();
        let names = vec!["x".repeat(4); marks.len()];
        let all = place(marks.clone(), &names, (72.0, 46.0), (616.0, 382.0));
        let areas: Vec<Area> = all.iter().flatten().map(|label| label.area).collect();
        assert_eq!(areas.len(), 63);
        assert_uncovered(&areas, &marks);
        assert!(all.iter().flatten().all(|label| label.line.is_none()));
    }

    #[test]
    fn lines_and_rectangles_that_cross_are_found() {
        let area = Area::around((10.0, 10.0), 2.0);
        assert!(crosses(((0.0, 10.0), (20.0, 10.0)), &area));
        assert!(crosses(((10.0, 10.0), (11.0, 11.0)), &area));
        assert!(!crosses(((0.0, 0.0), (20.0, 0.0)), &area));
        assert!(meet(((0.0, 0.0), (2.0, 2.0)), ((0.0, 2.0), (2.0, 0.0))));
        assert!(!meet(((0.0, 0.0), (2.0, 2.0)), ((3.0, 0.0), (5.0, 0.0))));
    }
}
