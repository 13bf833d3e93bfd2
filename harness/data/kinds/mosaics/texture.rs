//! The ten textures. Each defines whether a point is light or dark.

use rand::Rng;

/// Draws a nearly uniform unit vector. The rational parametrisation needs no sine.
pub fn direction(rng: &mut impl Rng) -> [f32; 2] {
    let t = rng.random_range(-1.0..1.0_f32);
    let length = 1.0 + t * t;
    let (x, y) = ((1.0 - t * t) / length, 2.0 * t / length);
    if rng.random() { [x, y] } else { [-y, x] }
}

/// Draws a unit vector at most 14 degrees from the first axis, so that directions distinguish the striped classes.
fn leaning(rng: &mut impl Rng) -> [f32; 2] {
    let t = rng.random_range(-0.125..0.125_f32);
    let length = 1.0 + t * t;
    [(1.0 - t * t) / length, 2.0 * t / length]
}

/// Returns `at` relative to `center`, with `turn` as the first axis.
pub fn turned(at: [f32; 2], center: [f32; 2], turn: [f32; 2]) -> [f32; 2] {
    let (x, y) = (at[0] - center[0], at[1] - center[1]);
    [x * turn[0] + y * turn[1], y * turn[0] - x * turn[1]]
}

/// Placement of a texture: origin, rotation, period (fraction of the image's side) and phase.
pub struct Frame {
    center: [f32; 2],
    turn: [f32; 2],
    period: f32,
    phase: [f32; 2],
}

impl Frame {
    /// Draws the placement of a texture around `center`.
    pub fn draw(center: [f32; 2], rng: &mut impl Rng) -> Self {
        Self {
            center,
            turn: leaning(rng),
            // 5 to 7.7 pixels at size 32.
            period: rng.random_range(0.16..0.24),
            phase: [rng.random(), rng.random()],
        }
    }

    /// Returns `at` in units of periods.
    fn place(&self, at: [f32; 2]) -> [f32; 2] {
        let [x, y] = turned(at, self.center, self.turn);
        [x / self.period, y / self.period]
    }
}

/// The texture of one object.
pub struct Texture {
    label: u32,
    frame: Frame,
    sites: [[f32; 2]; 16],
}

impl Texture {
    /// Draws the texture of class `label`.
    pub fn draw(label: u32, frame: Frame, rng: &mut impl Rng) -> Self {
        let sites = std::array::from_fn(|_| [rng.random(), rng.random()]);
        Self {
            label,
            frame,
            sites,
        }
    }

    /// Returns whether the point has the light colour.
    pub fn is_light(&self, at: [f32; 2]) -> bool {
        let [x, y] = self.frame.place(at);
        let [px, py] = self.frame.phase;
        let (u, v) = (x + px, y + py);
        let (fu, fv) = (u - u.floor(), v - v.floor());
        match self.label {
            0 => fv < 0.5,
            1 => fu < 0.5,
            // Both slants are in the class, so that a mirror image has the same class.
            2 if px < 0.5 => diagonal(u + v) < 0.5,
            2 => diagonal(u - v) < 0.5,
            3 => {
                let (a, b) = ((fu - 0.5).abs(), (fv - 0.5).abs());
                (a < 0.15 && b < 0.4) || (b < 0.15 && a < 0.4)
            }
            4 => (fu < 0.5) != (fv < 0.5),
            5 => (diagonal(u + v) < 0.5) != (diagonal(u - v) < 0.5),
            6 => square(fu - 0.5) + square(fv - 0.5) < 0.11,
            7 => {
                let r = (x * x + y * y).sqrt() + px;
                r - r.floor() < 0.5
            }
            8 => brick(u, v),
            _ => self.cell(x * 0.75 + px, y * 0.75 + py),
        }
    }

    /// Returns whether the point is on an edge between Voronoi cells of jittered sites.
    fn cell(&self, u: f32, v: f32) -> bool {
        let (mut first, mut second) = (f32::MAX, f32::MAX);
        let (iu, iv) = (u.floor(), v.floor());
        for dv in -1..=1 {
            for du in -1..=1 {
                let (cu, cv) = (iu + du as f32, iv + dv as f32);
                let index = (cu as i32).rem_euclid(4) + 4 * (cv as i32).rem_euclid(4);
                let [jx, jy] = self.sites[index as usize];
                let distance = (square(u - cu - jx) + square(v - cv - jy)).sqrt();
                if distance < first {
                    (first, second) = (distance, first);
                } else if distance < second {
                    second = distance;
                }
            }
        }
        second - first < 0.16
    }
}

fn square(x: f32) -> f32 {
    x * x
}

/// Rows of bricks with light mortar; every second row is shifted by half a brick.
fn brick(u: f32, v: f32) -> bool {
    let v = v * 1.3;
    let row = v.floor();
    let shift = if (row as i32).rem_euclid(2) == 0 {
        0.0
    } else {
        0.5
    };
    let u = u * 0.65 + shift;
    u - u.floor() < 0.18 || v - row < 0.28
}

/// Returns the position within a diagonal's period, which is as long as the axes' period.
fn diagonal(sum: f32) -> f32 {
    let s = sum * std::f32::consts::FRAC_1_SQRT_2;
    s - s.floor()
}
