BEGIN TRANSACTION;
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	session_id VARCHAR(64) NOT NULL, 
	model TEXT NOT NULL, 
	model_sha256 VARCHAR(64) NOT NULL, 
	board VARCHAR(64) NOT NULL, 
	simulated BOOLEAN NOT NULL, 
	requant VARCHAR(16) NOT NULL, 
	outcome VARCHAR(32) NOT NULL, 
	cycles BIGINT, 
	latency_ms FLOAT, 
	sram_bytes BIGINT, 
	flash_bytes BIGINT, 
	started VARCHAR(40), 
	"row" JSON NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(session_id) REFERENCES sessions (id)
);
INSERT INTO "attempts" VALUES(1,'20231114T221320-dddddd','vww_96','abababababababababababababababababababababababababababababababab','f746-sim',1,'exact','ok',6000000,27.78,58000,270000,'2026-01-01T00:00:00.000Z','{"model": "vww_96", "model_sha256": "abababababababababababababababababababababababababababababababab", "board": "f746-sim", "chip": "stm32f746", "core": "cortex-m7", "clock_hz": 216000000, "simulated": true, "timing_model": "tr-cortexm/1", "memory_model": "ideal", "requant": "exact", "outcome": "ok", "error": null, "cycles": 6000000, "cycles_samples": [6000000, 6000000, 6000000, 6000000, 6000000], "instructions": 5000000, "latency_ms": 27.78, "latency_ms_216mhz": 27.78, "macs": 7489664, "macs_executed": 7489664, "arena_planned_bytes": 55296, "arena_measured_bytes": 55296, "stack_bytes": 400, "sram_bytes": 58000, "flash_bytes": 270000, "model_flash_bytes": 260000, "text_bytes": 30000, "rodata_bytes": 230000, "bit_exact": true, "input_sha256": "0101010101010101010101010101010101010101010101010101010101010101", "output_sha256": "0202020202020202020202020202020202020202020202020202020202020202", "sources_digest": "0303030303030303030303030303030303030303030303030303030303030303", "elf_sha256": "0404040404040404040404040404040404040404040404040404040404040404", "toolchain": "arm-none-eabi-gcc 12.2.1", "layers": [{"index": 0, "name": "layer 0 <b>&", "op": "CONV_2D", "kernel": "te_conv2d_s8_fx_3x3s2__c", "macs": 1000000, "cycles": 1500000}, {"index": 1, "name": "layer 1 <b>&", "op": "DEPTHWISE_CONV_2D", "kernel": "te_conv2d_s8_fx_3x3s2__c", "macs": 900000, "cycles": 1300000}, {"index": 2, "name": "layer 2 <b>&", "op": "ADD", "kernel": "te_conv2d_s8_fx_3x3s2__c", "macs": 800000, "cycles": 1100000}, {"index": 3, "name": "layer 3 <b>&", "op": "CONV_2D", "kernel": "te_conv2d_s8_fx_3x3s2__c", "macs": 700000, "cycles": 900000}, {"index": 4, "name": "layer 4 <b>&", "op": "DEPTHWISE_CONV_2D", "kernel": "te_conv2d_s8_fx_3x3s2__c", "macs": 600000, "cycles": 700000}, {"index": 5, "name": "layer 5 <b>&", "op": "ADD", "kernel": "te_conv2d_s8_fx_3x3s2__c", "macs": 500000, "cycles": 500000}], "session": "20231114T221320-dddddd", "attempt": null, "fault": null, "advice": null, "retries": 0, "warnings": [], "started": "2026-01-01T00:00:00.000Z", "seconds": 2.5, "stages": [], "repetitions": 5, "warmups": 1, "float_io": false, "static_ram_bytes": null, "stack_inference_bytes": null, "weights_bytes": null, "build_digest": null, "baud": null, "link": {"frames": 120, "resends": 0, "garbage_bytes": 0}, "flash": null, "readback": {"cpuid": 1092600432, "device_id": 1097, "revision_id": 4097, "wait_states": 7, "icache": true, "dcache": true, "prefetch": true, "art": true, "fpu": true, "reset_cause": null, "nonce": 7, "boot": 1}, "memory": {"steps": ["layer 0", "layer 1", "layer 2", "layer 3", "layer 4", "layer 5"], "buffers": [{"label": "input", "kind": "tensor", "offset_bytes": 0, "size_bytes": 27648, "first": 0, "last": 0}, {"label": "</script><i>x", "kind": "tensor", "offset_bytes": 27648, "size_bytes": 18432, "first": 0, "last": 1}, {"label": "y", "kind": "tensor", "offset_bytes": 0, "size_bytes": 18432, "first": 1, "last": 3}, {"label": "columns", "kind": "scratch", "offset_bytes": 46080, "size_bytes": 9216, "first": 2, "last": 2}, {"label": "z", "kind": "tensor", "offset_bytes": 18432, "size_bytes": 9216, "first": 3, "last": 5}], "lower_bound_bytes": 46080}, "tinyrack": null}');
INSERT INTO "attempts" VALUES(2,'20231114T221320-dddddd','big','abababababababababababababababababababababababababababababababab','f412-sim',1,'exact','arena_overflow',NULL,NULL,NULL,NULL,'2026-01-01T00:00:00.000Z','{"model": "big", "model_sha256": "abababababababababababababababababababababababababababababababab", "board": "f412-sim", "chip": "stm32f412", "core": "cortex-m4", "clock_hz": null, "simulated": true, "timing_model": "tr-cortexm/1", "memory_model": "ideal", "requant": "exact", "outcome": "arena_overflow", "error": "big needs 300,000 B of SRAM, the chip has 262,144 B", "cycles": null, "cycles_samples": null, "instructions": null, "latency_ms": null, "latency_ms_216mhz": null, "macs": 7489664, "macs_executed": 7489664, "arena_planned_bytes": 55296, "arena_measured_bytes": null, "stack_bytes": null, "sram_bytes": null, "flash_bytes": null, "model_flash_bytes": null, "text_bytes": null, "rodata_bytes": null, "bit_exact": null, "input_sha256": "0101010101010101010101010101010101010101010101010101010101010101", "output_sha256": null, "sources_digest": "0303030303030303030303030303030303030303030303030303030303030303", "elf_sha256": null, "toolchain": "arm-none-eabi-gcc 12.2.1", "layers": null, "session": "20231114T221320-dddddd", "attempt": null, "fault": "model", "advice": "a smaller input or narrower layers, or a chip with more SRAM", "retries": 0, "warnings": [], "started": "2026-01-01T00:00:00.000Z", "seconds": 2.5, "stages": [], "repetitions": 5, "warmups": 1, "float_io": false, "static_ram_bytes": null, "stack_inference_bytes": null, "weights_bytes": null, "build_digest": null, "baud": null, "link": null, "flash": null, "readback": null, "memory": {"steps": ["layer 0", "layer 1", "layer 2", "layer 3", "layer 4", "layer 5"], "buffers": [{"label": "input", "kind": "tensor", "offset_bytes": 0, "size_bytes": 27648, "first": 0, "last": 0}, {"label": "</script><i>x", "kind": "tensor", "offset_bytes": 27648, "size_bytes": 18432, "first": 0, "last": 1}, {"label": "y", "kind": "tensor", "offset_bytes": 0, "size_bytes": 18432, "first": 1, "last": 3}, {"label": "columns", "kind": "scratch", "offset_bytes": 46080, "size_bytes": 9216, "first": 2, "last": 2}, {"label": "z", "kind": "tensor", "offset_bytes": 18432, "size_bytes": 9216, "first": 3, "last": 5}], "lower_bound_bytes": 46080}, "tinyrack": null}');
CREATE TABLE sessions (
	id VARCHAR(64) NOT NULL, 
	request_digest VARCHAR(64) NOT NULL, 
	started VARCHAR(40) NOT NULL, 
	finished VARCHAR(40), 
	host VARCHAR(255) NOT NULL, 
	process VARCHAR(64) NOT NULL, 
	request JSON NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "sessions" VALUES('20231114T221320-dddddd','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','2023-11-14T22:13:20.000Z','2023-11-14T22:13:20.000Z','a-host','1:1','{"models": ["vww_96", "big"]}');
CREATE TABLE tinyrack_info (
	"key" VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "tinyrack_info" VALUES('schema_version','1');
CREATE INDEX ix_sessions_request_digest ON sessions (request_digest);
CREATE INDEX ix_attempts_session_id ON attempts (session_id);
CREATE INDEX ix_attempts_board ON attempts (board);
CREATE INDEX ix_attempts_model ON attempts (model);
CREATE TRIGGER attempts_no_update BEFORE UPDATE ON attempts BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END;
CREATE TRIGGER attempts_no_delete BEFORE DELETE ON attempts BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END;
COMMIT;
