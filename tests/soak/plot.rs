//! A picture of the samples: a few curves, one above the other, over the same time.

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 110.0;
const LEFT: f64 = 70.0;
const GAP: f64 = 46.0;

/// One panel: its title and its value at each time.
pub struct Curve {
    /// What is drawn, with its unit.
    pub title: String,
    /// Seconds and value.
    pub points: Vec<(f64, f64)>,
}

/// The panels as an SVG image; the vertical axes begin at zero.
pub fn svg(title: &str, curves: &[Curve]) -> String {
    let last = curves.iter().flat_map(|curve| &curve.points).map(|point| point.0).fold(1.0, f64::max);
    #[allow(clippy::cast_precision_loss, reason = "a handful of panels")]
    let top_of = |number: usize| 60.0 + number as f64 * (HEIGHT + GAP);
    let height = top_of(curves.len());
    let mut page = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{0}\" height=\"{height}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{title}</text>\n",
        WIDTH + LEFT + 20.0
    );
    for (number, curve) in curves.iter().enumerate() {
        let (top, most) = (top_of(number), curve.points.iter().map(|point| point.1).fold(0.0, f64::max));
        let scale = if most > 0.0 { most * 1.1 } else { 1.0 };
        let _ = writeln!(page, "<text x=\"{LEFT}\" y=\"{}\">{}</text>", top - 8.0, curve.title);
        let _ = writeln!(
            page,
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#bbb\"/>"
        );
        for (value, y) in [(0.0, top + HEIGHT), (most, top + HEIGHT - HEIGHT * most / scale)] {
            let _ =
                writeln!(page, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>", LEFT - 6.0, y + 4.0);
        }
        let place = |&(seconds, value): &(f64, f64)| {
            format!("{:.1},{:.1}", LEFT + WIDTH * seconds / last, top + HEIGHT - HEIGHT * value / scale)
        };
        let points: Vec<String> = curve.points.iter().map(place).collect();
        let _ = writeln!(page, "<polyline points=\"{}\" fill=\"none\" stroke=\"#1565c0\"/>", points.join(" "));
    }
    let _ = writeln!(
        page,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.0} minutes</text>\n</svg>",
        LEFT + WIDTH,
        height - 24.0,
        last / 60.0
    );
    page
}
