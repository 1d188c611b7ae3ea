DROP TABLE request_ids;
DROP TABLE events;
DROP TABLE blocks;
DROP VIEW connections;
DROP TABLE connection_requests;
DROP TABLE user_counts;
DROP TABLE users;
DROP TABLE feed;
