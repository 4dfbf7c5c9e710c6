//! A screenshot of the page, taken by a headless Chromium.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Width of the screenshot in pixels.
const WIDTH: u32 = 1200;
/// Screenshots taller than this come out incomplete.
const HEIGHT_LIMIT: u32 = 16_000;
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Takes a screenshot of the whole page.
///
/// # Errors
/// If Chromium is not installed, or fails.
pub fn take(html: &Path, png: &Path) -> Result<(), Box<dyn Error>> {
    let browser = browser().ok_or("--png needs Chromium (Debian: chromium), which is not installed")?;
    let page = html.canonicalize()?;
    let height = height(&browser, &page)?;
    let directory = png.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let target = directory.canonicalize()?.join(png.file_name().ok_or("--png must name a file")?);
    let output = run(
        &browser,
        &[
            "--hide-scrollbars".to_owned(),
            format!("--window-size={WIDTH},{height}"),
            format!("--screenshot={}", target.display()),
            format!("file://{}", page.display()),
        ],
    )?;
    if !target.is_file() {
        return Err(format!("Chromium took no screenshot: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    NAMES.iter().find_map(|name| std::env::split_paths(&path).map(|place| place.join(name)).find(|file| file.is_file()))
}

/// The height of the page, found by laying out a copy that writes its own height into its title.
fn height(browser: &Path, page: &Path) -> Result<u32, Box<dyn Error>> {
    let copy = page.with_extension("measure.html");
    let script = "<script>document.title='height='+document.documentElement.scrollHeight</script>";
    fs::write(&copy, fs::read_to_string(page)? + script)?;
    let output = run(
        browser,
        &[format!("--window-size={WIDTH},800"), "--dump-dom".to_owned(), format!("file://{}", copy.display())],
    );
    fs::remove_file(&copy)?;
    let dom = String::from_utf8_lossy(&output?.stdout).into_owned();
    let digits =
        dom.split("height=").nth(1).map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    let height: u32 = digits.unwrap_or_default().parse().map_err(|_| "Chromium did not report the page's height")?;
    Ok(height.clamp(200, HEIGHT_LIMIT))
}

fn run(browser: &Path, arguments: &[String]) -> std::io::Result<Output> {
    Command::new(browser)
        // Chromium's sandbox does not work for root; the page is our own and loads nothing.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
}
