// For every test file: the time limit of a test, and what is printed when a test exceeds it.

import { afterEach, setDefaultTimeout } from "bun:test";

import { PATIENCE_MS, tellRunning } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);
afterEach(tellRunning);
