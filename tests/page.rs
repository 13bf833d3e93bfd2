//! Tests what the page and the results say of a probe, and the page in a browser: sorting, filtering, hovering, opening a card, dark mode,
//! printing, no errors on the console.
//!
//! The browser needs chromium and chromedriver (Debian's packages `chromium` and `chromium-driver`), which `.ci/run` installs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Bench, HEAD, column, error};
use serde_json::{Value, json};

/// A class name that would run as a script without escaping.
const EVIL: &str = "<img src=x onerror=alert(1)><script>alert(2)<b>";

fn suite() -> Bench {
    let head = HEAD.replace(
        "{kind: mosaics, seed: 3, train: 96, val: 40, size: 16}",
        "{kind: image-folder, root: images}",
    );
    let bench = Bench::new(&format!(
        "{head}tokenizers:
  - {{name: Identity, kind: continuous, with: {{features: {{kind: pixels, normalize: per-patch}}}}}}
  - {{name: \"K-means <i>Pixel</i>, K={{k}}\", kind: kmeans, with: {{features: {{kind: pixels}}, epochs: 2}}, sweep: {{k: [3, 4, 5, 6, 8]}}}}
pretrain: {{epochs: 1, batch: 16, base_lr: 1.0e-3, warmup_epochs: 0, weight_decay: 0.05, mask_ratio: 0.75, augment: random-resized-crop}}
knn: {{k: 5, temperature: 0.07}}
linear_probe: {{epochs: 3, batch: 64, base_lr: 0.1, pooling: cls, warmup_epochs: 1, augment: none}}
report: {{tables: [1, 2]}}
"
    ));
    for split in ["train", "val"] {
        for (class, shade) in [(EVIL, 100_u8), ("bee", 104)] {
            let folder = bench.path("images").join(split).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for at in 0..24_u8 {
                // The noise nearly hides the difference in shade, so that accuracies differ.
                let noise =
                    |x: u32, y: u32| ((x * 31 + y * 17 + u32::from(at) * 13) * 7 % 101) as u8;
                let pixel = |x, y| image::Rgb([shade + noise(x, y), noise(y, x), shade]);
                image::RgbImage::from_fn(20, 20, pixel)
                    .save(folder.join(format!("{at}.png")))
                    .unwrap();
            }
        }
    }
    bench
}

#[test]
fn the_page_works_in_a_browser() {
    let Some(browser) = Browser::start() else {
        common::skipped("no chromium and chromedriver (Debian: chromium, chromium-driver)");
        return;
    };
    let bench = suite();
    bench.fine(&["run", "suite.yaml"]);
    browser.open(&bench.path("runs/tiny/report.html"));
    sorts(&browser);
    filters(&browser);
    hovers_and_opens_the_card(&browser);
    fits_a_phone(&browser);
    let dark = "return getComputedStyle(document.body).backgroundColor";
    let before = browser.run(dark);
    browser.click("header .theme");
    assert_ne!(before, browser.run(dark), "the theme did not change");
    let pdf = browser.post("print", json!({}));
    assert!(pdf.as_str().unwrap().starts_with("JVBER"), "no PDF");
    // The console must be empty, and no markup of the class name may have been interpreted.
    let log = browser.post("se/log", json!({"type": "browser"}));
    assert_eq!(log, json!([]), "{log}");
    assert_eq!(
        browser.run("return document.querySelectorAll('img[src=x], main script').length"),
        0
    );
}

fn sorts(browser: &Browser) {
    let values = "return [...document.querySelectorAll('#rank tbody tr')].map(r => r.cells[COLUMN].dataset.value)";
    let column = browser
        .run("return [...document.querySelectorAll('#rank th')].findIndex(h => h.textContent.startsWith('TCAS'))")
        .as_u64()
        .unwrap();
    let values = values.replace("COLUMN", &column.to_string());
    let numbers = || -> Vec<f64> {
        let all = browser.run(&values);
        let all = all.as_array().unwrap().iter().map(|v| v.as_str().unwrap());
        all.filter(|v| !v.is_empty())
            .map(|v| v.parse().unwrap())
            .collect()
    };
    let header = format!("#rank th:nth-child({}) button", column + 1);
    browser.click(&header);
    let down = numbers();
    assert!(
        down.len() == 5 && down.is_sorted_by(|a, b| a >= b),
        "{down:?}"
    );
    browser.click(&header);
    let up = numbers();
    assert!(up.is_sorted(), "{up:?}");
    // Rows without the number come last.
    let last = browser
        .run("return [...document.querySelectorAll('#rank tbody tr')].at(-1).cells[0].textContent");
    assert_eq!(last, "Identity");
}

fn filters(browser: &Browser) {
    browser.type_text("#filter", "k=5");
    let shown = "return [...document.querySelectorAll('#rank tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)";
    assert_eq!(browser.run(shown), json!(["K-means <i>Pixel</i>, K=5"]));
    assert_eq!(
        browser.run("return document.querySelector('#count').textContent"),
        "1 of 6"
    );
}

fn hovers_and_opens_the_card(browser: &Browser) {
    browser.hover("#predictors figure:not([hidden]) .t-point");
    let tip = browser
        .run("const t = document.querySelector('#tip'); return t.hidden ? '' : t.textContent");
    assert!(
        tip.as_str()
            .unwrap()
            .starts_with("K-means <i>Pixel</i>, K="),
        "{tip}"
    );
    browser.click("#predictors figure:not([hidden]) .t-point");
    let open = "return [...document.querySelectorAll('details.card')].filter(c => c.open).map(c => c.querySelector('summary').textContent)";
    let open = browser.run(open);
    let name = tip.as_str().unwrap().split(':').next().unwrap();
    assert_eq!(open, json!([name]));
    // The card is filled in the next frame: facts, gallery, maps, usage, classes. The class name appears as text.
    let card = "const c = document.querySelector('details.card[open]'); return [c.querySelectorAll('h3').length, c.querySelectorAll('canvas').length, c.textContent.includes(NAME)]";
    let card = card.replace("NAME", &json!(EVIL).to_string());
    let filled = || browser.run(&card);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while filled()[1].as_u64() < Some(4) && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let filled = filled();
    assert_eq!(
        (&filled[0], &filled[2]),
        (&json!(6), &json!(true)),
        "{filled}"
    );
    assert!(filled[1].as_u64() >= Some(4), "{filled}");
}

/// The page, with an open card, has no sideways scroll at 390 pixels. Wide tables and figures scroll by themselves.
fn fits_a_phone(browser: &Browser) {
    let phone = json!({"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": false});
    let command = |cmd: &str, params: Value| {
        browser.post("goog/cdp/execute", json!({"cmd": cmd, "params": params}));
    };
    command("Emulation.setDeviceMetricsOverride", phone);
    let widths = browser.run("return [document.documentElement.clientWidth, document.documentElement.scrollWidth, document.querySelectorAll('details.card[open]').length]");
    let [seen, all, open] = [0, 1, 2].map(|at| widths[at].as_u64().unwrap());
    assert_eq!(
        (all, open),
        (seen, 1),
        "a page of {all} pixels in a window of {seen}"
    );
    assert!(seen <= 390);
    command("Emulation.clearDeviceMetricsOverride", json!({}));
}

/// A browser controlled through chromedriver (WebDriver over HTTP).
struct Browser {
    driver: Child,
    session: String,
}

impl Browser {
    fn start() -> Option<Self> {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let lines = BufReader::new(driver.stdout.take()?).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            Some(
                line.split_once("started successfully on port ")?
                    .1
                    .trim_end_matches('.')
                    .to_owned(),
            )
        });
        let Some(port) = port else {
            let _ = driver.kill();
            return None;
        };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1200,900",
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let base = format!("http://127.0.0.1:{port}/session");
        let answer = match send(&base, &wanted) {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("{error}");
                let _ = driver.kill();
                return None;
            }
        };
        let session = format!("{base}/{}", answer["sessionId"].as_str()?);
        Some(Self { driver, session })
    }

    fn post(&self, what: &str, body: Value) -> Value {
        send(&format!("{}/{what}", self.session), &body).unwrap_or_else(|e| panic!("{what}: {e}"))
    }

    fn open(&self, page: &Path) {
        self.post("url", json!({"url": format!("file://{}", page.display())}));
    }

    fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []}))
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post(
            "element",
            json!({"using": "css selector", "value": selector}),
        );
        let (_, id) = found.as_object().unwrap().iter().next().unwrap();
        id.as_str().unwrap().to_owned()
    }

    fn click(&self, selector: &str) {
        let script = format!(
            "document.querySelector({}).scrollIntoView({{block: 'center'}})",
            json!(selector)
        );
        self.run(&script);
        self.post(
            &format!("element/{}/click", self.element(selector)),
            json!({}),
        );
    }

    fn type_text(&self, selector: &str, text: &str) {
        let id = self.element(selector);
        self.post(&format!("element/{id}/value"), json!({"text": text}));
    }

    fn hover(&self, selector: &str) {
        let script = format!(
            "document.querySelector({}).scrollIntoView({{block: 'center'}})",
            json!(selector)
        );
        self.run(&script);
        let origin = json!({"element-6066-11e4-a52e-4f735466cecf": self.element(selector)});
        let step = json!({"type": "pointerMove", "duration": 0, "origin": origin, "x": 0, "y": 0});
        let pointer = json!({"type": "pointer", "id": "mouse", "actions": [step]});
        self.post("actions", json!({"actions": [pointer]}));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = ureq::delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Sends a WebDriver request; returns its value or its error message.
fn send(url: &str, body: &Value) -> Result<Value, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let text = body.to_string();
    let request = agent.post(url).header("content-type", "application/json");
    let mut answer = request.send(text.as_bytes()).map_err(|e| e.to_string())?;
    let status = answer.status();
    let mut reader = answer.body_mut().with_config().limit(64 << 20).reader();
    let value: Value = serde_json::from_reader(&mut reader).map_err(|e| e.to_string())?;
    match status.is_success() {
        true => Ok(value["value"].clone()),
        false => Err(value["value"].to_string()),
    }
}

/// The rates that were tried and a probe that is too short show in the results, on the page and in the tables.
#[test]
fn results_say_how_the_probe_was_trained_and_whether_it_converged() {
    let bench = Bench::whole();
    let output = bench.bench(&["run", "suite.yaml", "--only", "Identity"]);
    assert!(output.status.success());
    let note = "the linear probe has not converged";
    assert!(error(&output).contains(note), "{}", error(&output));
    let run = bench.path("runs/tiny");
    for rate in column(&run, "lp_base_lr") {
        assert!(["0.01", "0.1"].contains(&rate.as_str()), "{rate}");
    }
    for found in column(&run, "lp_held_out") {
        let rates: Vec<&str> = found
            .split("; ")
            .filter_map(|at| at.split(": ").next())
            .collect();
        assert_eq!(rates, ["0.01", "0.1"], "{found}");
    }
    assert!(column(&run, "lp_converged").iter().all(|yes| yes == "no"));
    for fall in column(&run, "lp_loss_fall") {
        assert!(fall.parse::<f64>().unwrap() > 0.5, "{fall}");
    }
    for file in ["report.html", "tables/table1.md"] {
        let text = std::fs::read_to_string(run.join(file)).unwrap();
        assert!(text.contains("has not converged"), "{file}");
    }
}

/// Only the page said it.
#[test]
fn tables_name_rows_whose_loss_has_risen_as_the_page_does() {
    let bench = suite();
    let row = "Identity";
    bench.fine(&[
        "run",
        "suite.yaml",
        "--out",
        "out",
        "--only",
        row,
        "--set",
        "pretrain.epochs=2",
    ]);
    let out = bench.path("out");
    let cells = std::fs::read_dir(out.join("cells")).unwrap();
    let written = cells.map(|cell| cell.unwrap().path().join("history.csv"));
    for path in written.filter(|path| path.exists()) {
        let history = std::fs::read_to_string(&path).unwrap();
        let rise = |line: &str| match line.strip_prefix("pretrain,1,") {
            Some(rest) => {
                let (lr, rest) = rest.split_once(',').unwrap();
                let after = rest.split_once(',').unwrap().1;
                format!("pretrain,1,{lr},9000.0,{after}\n")
            }
            None => format!("{line}\n"),
        };
        let risen: String = history.lines().map(rise).collect();
        assert_ne!(risen, history, "{history}");
        std::fs::write(&path, risen).unwrap();
    }
    std::fs::remove_file(out.join("SHA256SUMS")).unwrap();
    bench.fine(&["report", "out"]);
    for name in ["tables/table1.md", "tables/table1.tex", "report.html"] {
        let text = std::fs::read_to_string(out.join(name)).unwrap();
        assert!(
            text.contains("Pretraining has not lowered its loss"),
            "{name}"
        );
        assert!(text.contains("to 9000.00)"), "{name}");
    }
}

/// It was there without tables, too.
#[test]
fn the_page_links_to_tables_that_exist() {
    let bench = suite();
    for (tables, links) in [("[]", 0), ("[3]", 1)] {
        let set = format!("report.tables={tables}");
        let args = [
            "score",
            "suite.yaml",
            "--out",
            "out",
            "--only",
            "K-means*K=3",
            "--set",
        ];
        bench.fine(&[&args[..], &[&set]].concat());
        let page = std::fs::read_to_string(bench.path("out/report.html")).unwrap();
        assert_eq!(page.matches("href=\"tables/\"").count(), links, "{tables}");
    }
}
