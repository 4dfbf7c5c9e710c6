//! A package index with one wheel, for pip.

use std::path::Path;
use std::time::Duration;

use super::command::run;

/// The wheel's name.
pub const WHEEL: &str = "gatewaytest-1.0-py3-none-any.whl";

const BOUND: Duration = Duration::from_secs(60);

/// Makes an index below `at` in the folder `simple`, with Python's zipfile. Returns the wheel, which has 3 MB.
pub fn index(python: &Path, at: &Path) -> Vec<u8> {
    let package = at.join("simple/gatewaytest");
    std::fs::create_dir_all(&package).expect("mkdir");
    let script = "import sys, zipfile, random\n\
        info = 'gatewaytest-1.0.dist-info/'\n\
        with zipfile.ZipFile(sys.argv[1], 'w') as wheel:\n    \
            wheel.writestr('gatewaytest.py', '')\n    \
            wheel.writestr('gatewaytest.bin', random.Random(1).randbytes(3000000))\n    \
            wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: gatewaytest\\nVersion: 1.0\\n')\n    \
            wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n    \
            wheel.writestr(info + 'RECORD', '')\n";
    let wheel = package.join(WHEEL);
    run(python, BOUND, |command| {
        command.args(["-c", script]).arg(&wheel);
    })
    .expect_success("make a wheel");
    let page = format!("<!DOCTYPE html><html><body><a href=\"{WHEEL}\">{WHEEL}</a></body></html>");
    std::fs::write(package.join("index.html"), page).expect("write the index");
    std::fs::read(wheel).expect("the wheel")
}

/// Arguments for Python to download the wheel from the index at this URL.
pub fn download(index: &str, into: &Path) -> Vec<String> {
    let pip = ["-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir", "--retries", "0"];
    let into = into.display().to_string();
    let what = ["download", "--no-deps", "--index-url", index, "--dest", &into, "gatewaytest==1.0"];
    pip.into_iter().chain(what).map(str::to_owned).collect()
}
