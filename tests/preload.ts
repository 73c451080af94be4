// For every test file: how long a test may take, and what is printed when that was too long.

import { afterEach, setDefaultTimeout } from "bun:test";

import { PATIENCE_MS, tellRunning } from "./helpers.ts";

setDefaultTimeout(PATIENCE_MS);
afterEach(tellRunning);
