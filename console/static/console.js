// Start of every page.
import { startChecks } from "./checks.js";
import { startCopying } from "./copy.js";
import { startPanels } from "./panels.js";
import { startRanges } from "./ranges.js";
import { startLive } from "./live.js";
import { localise } from "./times.js";

localise(document);
document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
startPanels();
startRanges();
startChecks();
startCopying();
startLive();
