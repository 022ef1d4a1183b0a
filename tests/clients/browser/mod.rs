//! MQTT.js in a headless Chromium, over WebSocket and over WebSocket in TLS; and the page in `examples/browser`.

mod chromium;

use std::fs;
use std::path::Path;

use serde_json::json;

use self::chromium::Chromium;
use crate::support::site::Site;
use crate::support::{Broker, RawClient, V5, connect, publish, unique};

/// Cases of one part in `cases.html`.
const CASES: [&str; 4] = [
    "every_quality_of_service_arrives",
    "a_large_payload_arrives_whole",
    "a_retained_message_waits",
    "a_session_gets_what_came_while_its_connection_was_broken",
];

#[test]
fn mqtt_js_works_over_websocket() {
    let site = Site::new();
    let broker = site.broker("browser.toml", &[8083, 8084, 1883]);
    let mut browser = Chromium::start(None);
    let url = format!("ws://localhost:{}/mqtt", broker.port());
    every_case(&mut browser, &broker, &url);
}

#[test]
fn mqtt_js_works_over_websocket_in_tls() {
    let site = Site::new();
    let broker = site.broker("browser.toml", &[8083, 8084, 1883]);
    let mut browser = Chromium::start(Some(Path::new(&site.file("certs/ca.crt"))));
    let secure =
        |broker: &Broker, host: &str| format!("wss://{host}:{}/mqtt", broker.address_of("wss").port());
    every_case(&mut browser, &broker, &secure(&broker, "localhost"));

    // The certificate counts: it is for no address, and another authority's is not trusted.
    let elsewhere = Site::new();
    let stranger = elsewhere.broker("browser.toml", &[8083, 8084, 1883]);
    for url in [secure(&broker, "127.0.0.1"), secure(&stranger, "localhost")] {
        run(&mut browser, "it_does_not_come_in", &url, 5, &unique("stranger"));
    }
    stranger.wait_for_log("the TLS handshake failed: received fatal alert");

    // The page of the examples comes in at the same door; at the stranger's it says what may be wrong.
    let page = format!("file://{}/examples/browser/index.html?url=", env!("CARGO_MANIFEST_DIR"));
    browser.open(&format!("{page}{}", secure(&broker, "localhost")));
    browser.wait_until("at('state').dataset.state === 'connected'");
    browser.open(&format!("{page}{}", secure(&stranger, "localhost")));
    browser.wait_until("/does the browser trust its certificate/.test(at('notice').innerText)");
}

/// In both versions that MQTT.js speaks.
fn every_case(browser: &mut Chromium, broker: &Broker, url: &str) {
    let page = format!("file://{}/tests/clients/browser/cases.html", env!("CARGO_MANIFEST_DIR"));
    browser.open(&page);
    for version in [4, 5] {
        for case in CASES {
            run(browser, case, url, version, &unique(case));
        }
        a_page_that_is_loaded_anew_finds_its_session_again(browser, broker, url, version);
    }
}

/// The browser closes the connection of a page that goes, and nobody says DISCONNECT.
fn a_page_that_is_loaded_anew_finds_its_session_again(
    browser: &mut Chromium,
    broker: &Broker,
    url: &str,
    version: u8,
) {
    let name = unique("reloaded");
    run(browser, "subscribe_and_stay", url, version, &name);
    let mut other = RawClient::open_at(broker.address_of("mqtt"), V5);
    other.send(&connect(V5).client_id(unique("other")).bytes());
    assert_eq!(other.read().connack().reason, 0);
    other.subscribe(&format!("{name}/will"), 1);
    browser.reload();
    assert_eq!(other.receive().payload, b"gone", "the will tells that the page has gone");
    let topic = format!("{name}/in");
    for (number, qos) in [(1, 1), (2, 2), (3, 2)] {
        other.publish(&publish(&topic, format!("queued {number}")).qos(qos, number));
    }
    run(browser, "find_the_session_again", url, version, &name);
}

#[track_caller]
fn run(browser: &mut Chromium, case: &str, url: &str, version: u8, name: &str) {
    let call = format!("cases.{case}({}, {version}, {})", json!(url), json!(name));
    if let Err(thrown) = browser.evaluate(&call) {
        panic!("{case} at {url} in version {version}: {thrown}");
    }
}

/// As a person uses it.
#[test]
fn the_page_of_the_examples_works_with_a_broker_without_configuration() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut broker = Broker::launch(None, &["--ws-port", "0", "--durability", "none"]);
    let listens = broker.address_of("websocket");
    let page = format!("{root}/examples/browser/index.html");
    // Here it has another port; that of a broker without configuration is in the page.
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("url: \"ws://127.0.0.1:8083/mqtt\""), "where the page connects by itself");

    let mut browser = Chromium::start(None);
    browser.open(&format!("file://{page}?url=ws://{listens}/mqtt"));
    browser.wait_until("at('state').dataset.state === 'connected'");
    // By itself it subscribes to everything.
    browser.wait_until("/#\\s+QoS 2/.test(at('filters').innerText)");

    // Out, and in.
    let mut other = connect(V5).client_id(unique("terminal")).open(&broker);
    other.subscribe("rooms/#", 2);
    for qos in [0, 1, 2] {
        let form = format!(
            "at('topic').value = 'rooms/kitchen'; at('payload').value = 'light {qos}'; \
             document.querySelector('[name=qos][value=\"{qos}\"]').click(); at('retain').checked = {}; \
             at('publish').requestSubmit()",
            qos == 2
        );
        browser.evaluate(&form).unwrap();
        let came = other.receive();
        assert_eq!((came.qos, came.payload), (qos, format!("light {qos}").into_bytes()));
    }
    browser.wait_until("/acknowledged it after/.test(at('outcome').textContent)");
    let hostile = "<img src=x onerror=\"document.title = 'broken'\"> \u{1F426}";
    other.publish(&publish("rooms/attic", hostile).qos(1, 1));
    let shown = format!("at('list').innerText.includes({})", json!(hostile));
    browser.wait_until(&shown);
    browser.wait_until(
        "document.querySelectorAll('#list .message').length === 4 && at('count').textContent === '4'",
    );
    assert_eq!(browser.evaluate("document.title"), Ok(json!("Fulmar in the browser")), "text stays text");

    // The retained one, for a subscription of its own, and one that is refused.
    browser.evaluate("at('filter').value = 'rooms/kitchen'; at('subscribe').requestSubmit()").unwrap();
    browser.wait_until("/retained/.test(at('list').innerText)");
    browser.evaluate("at('filter').value = 'a/#/b'; at('subscribe').requestSubmit()").unwrap();
    browser.wait_until("document.querySelector('#filters .denied')?.innerText.includes('a/#/b') === true");

    // A broker that goes away and comes back is found again.
    drop(other);
    broker.kill();
    browser.wait_until("at('state').dataset.state === 'lost'");
    drop(broker);
    let broker = Broker::with_config(&format!(
        "[[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n[[listeners]]\nkind = \"ws\"\naddress = \"{listens}\"\n"
    ));
    browser.wait_until("at('state').dataset.state === 'connected'");
    browser.wait_until("/The connection was lost/.test(at('list').innerText) && /Connected again/.test(at('list').innerText)");
    let mut other = connect(V5).client_id(unique("terminal")).open(&broker);
    other.publish(&publish("rooms/cellar", "again").qos(1, 1));
    browser.wait_until("/rooms.cellar/.test(at('list').innerText)");
}
