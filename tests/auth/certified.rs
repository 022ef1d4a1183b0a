//! A certificate instead of a password.

use crate::support::Broker;
use crate::support::certificates::{Authority, Folder, Pair};
use crate::{mosquitto, said};

#[test]
fn who_shows_a_certificate_is_known_by_its_name() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "ca");
    let (one, other) = (authority.client("sensor-1"), authority.client("sensor-2"));
    let broker = Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"certificate\"]\ncertificate_user = \"device-%cn\"\n\
         [[acl]]\ntopics = [\"%u/#\"]\n\
         [[listeners]]\nname = \"secure\"\nkind = \"tls\"\naddress = \"127.0.0.1:{{PORT}}\"\n{}\
         client_certificates = \"optional\"\nclient_ca = \"{}\"\n",
        authority.server("server").toml(),
        authority.certificate().display()
    ));
    let ca = authority.certificate().display().to_string();
    let publish = |pair: Option<&Pair>, topic: &str| {
        let files = pair.map(|pair| [&pair.certificate, &pair.key].map(|path| path.display().to_string()));
        let mut arguments =
            vec!["--cafile", &ca, "--insecure", "-V", "mqttv5", "-q", "1", "-d", "-t", topic, "-m", "m"];
        if let Some([certificate, key]) = &files {
            arguments.extend(["--cert", certificate, "--key", key]);
        }
        let output = mosquitto("mosquitto_pub", broker.port(), &arguments);
        (output.status.code(), said(&output).contains("RC:135"))
    };
    assert_eq!(publish(Some(&one), "device-sensor-1/a"), (Some(0), false));
    assert!(publish(Some(&other), "device-sensor-1/a").1, "another's topic");
    assert_eq!(publish(Some(&other), "device-sensor-2/a"), (Some(0), false));
    assert_eq!(publish(None, "device-sensor-1/a").0, Some(135), "nobody is known without one");
    broker.wait_for_log("user=\"device-sensor-1\"");
    broker.wait_for_log("it says nothing of who it is, and allow_anonymous is off");
}
