"""The harness: builds, flashes, measures, stores and reports. State lives here only where there is a cable."""
