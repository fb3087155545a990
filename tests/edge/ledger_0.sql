-- What the first version made, dumped with sqlite3's iterdump.
BEGIN TRANSACTION;
CREATE TABLE decisions (
	id VARCHAR(128) NOT NULL, 
	epoch BIGINT NOT NULL, 
	record TEXT NOT NULL, 
	ts_ns BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "decisions" VALUES('d1',1,'{}',1795210892715939744);
INSERT INTO "decisions" VALUES('d2',1,'{}',1795210892718961749);
CREATE TABLE fills (
	id INTEGER NOT NULL, 
	book INTEGER NOT NULL, 
	symbol VARCHAR(32) NOT NULL, 
	trade_id VARCHAR(64) NOT NULL, 
	client_id VARCHAR(36) NOT NULL, 
	venue_id VARCHAR(64) NOT NULL, 
	side VARCHAR(4) NOT NULL, 
	qty VARCHAR(64) NOT NULL, 
	price VARCHAR(64) NOT NULL, 
	fee VARCHAR(64) NOT NULL, 
	fee_asset VARCHAR(32) NOT NULL, 
	maker BOOLEAN NOT NULL, 
	ts_event_ns BIGINT NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT one_fill_per_trade UNIQUE (book, symbol, trade_id)
);
INSERT INTO "fills" VALUES(1,1,'BTC/USDT','1','b0000000000000000000000001','7','buy','0.5','100.10','0.0005','BTC',0,1,'send');
CREATE TABLE flows (
	id INTEGER NOT NULL, 
	book INTEGER NOT NULL, 
	asset VARCHAR(32) NOT NULL, 
	amount VARCHAR(64) NOT NULL, 
	ours BOOLEAN NOT NULL, 
	detail TEXT NOT NULL, 
	ts_ns BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "flows" VALUES(1,1,'USDT','1000',1,'opening',1);
CREATE TABLE intents (
	client_id VARCHAR(36) NOT NULL, 
	decision VARCHAR(128) NOT NULL, 
	leg INTEGER NOT NULL, 
	symbol VARCHAR(32) NOT NULL, 
	side VARCHAR(4) NOT NULL, 
	qty VARCHAR(64) NOT NULL, 
	limit_price VARCHAR(64) NOT NULL, 
	tif VARCHAR(8) NOT NULL, 
	cause VARCHAR(32) NOT NULL, 
	is_exit BOOLEAN NOT NULL, 
	reference VARCHAR(64) NOT NULL, 
	ts_ns BIGINT NOT NULL, 
	expires_ns BIGINT NOT NULL, 
	approved_ns BIGINT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	venue_id VARCHAR(64) NOT NULL, 
	filled VARCHAR(64) NOT NULL, 
	code VARCHAR(128) NOT NULL, 
	updated_ns BIGINT NOT NULL, 
	epoch BIGINT NOT NULL, 
	config_hash VARCHAR(64) NOT NULL, 
	model_hash VARCHAR(64) NOT NULL, 
	code_version VARCHAR(64) NOT NULL, 
	PRIMARY KEY (client_id), 
	CONSTRAINT one_intent_per_decision_and_leg UNIQUE (decision, leg)
);
INSERT INTO "intents" VALUES('b0000000000000000000000001','d1',0,'BTC/USDT','buy','0.5','100.10','ioc','rebalance',0,'100',1,2000000001,1,'filled','7','0.5','',9,1,'','','');
INSERT INTO "intents" VALUES('b0000000000000000000000002','d2',0,'BTC/USDT','buy','0.5','100.10','ioc','rebalance',0,'100',2,2000000002,2,'sending','','0','',2,1,'','','');
CREATE TABLE meta (
	"key" VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('venue','binance');
INSERT INTO "meta" VALUES('account','');
INSERT INTO "meta" VALUES('mode','paper');
INSERT INTO "meta" VALUES('quote','USDT');
INSERT INTO "meta" VALUES('schema','1');
INSERT INTO "meta" VALUES('epoch','1');
INSERT INTO "meta" VALUES('book','1');
INSERT INTO "meta" VALUES('instance','main');
CREATE TABLE order_events (
	id INTEGER NOT NULL, 
	client_id VARCHAR(36) NOT NULL, 
	symbol VARCHAR(32) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	venue_id VARCHAR(64) NOT NULL, 
	filled VARCHAR(64) NOT NULL, 
	code VARCHAR(128) NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	ts_ns BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "order_events" VALUES(1,'b0000000000000000000000001','BTC/USDT','filled','7','0.5','','send',9);
CREATE TABLE refusals (
	id INTEGER NOT NULL, 
	decision VARCHAR(128) NOT NULL, 
	client_id VARCHAR(36) NOT NULL, 
	symbol VARCHAR(32) NOT NULL, 
	side VARCHAR(4) NOT NULL, 
	qty VARCHAR(64) NOT NULL, 
	limit_price VARCHAR(64) NOT NULL, 
	reason VARCHAR(32) NOT NULL, 
	detail TEXT NOT NULL, 
	ts_ns BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE state (
	"key" VARCHAR(32) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "state" VALUES('engine','{}');
CREATE INDEX ix_intents_state ON intents (state);
CREATE INDEX ix_intents_symbol ON intents (symbol);
CREATE INDEX ix_fills_client_id ON fills (client_id);
CREATE INDEX ix_order_events_client_id ON order_events (client_id);
COMMIT;
