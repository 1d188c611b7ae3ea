-- One user, whole.
\set user random(1, :users)
SELECT * FROM users WHERE id = :user;
